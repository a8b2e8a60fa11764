//! `ls`, `test`, `mkdir`, `rm` and `touch`: commands on files.

use std::fmt::Write as _;
use std::io;

use jiff::tz::TimeZone;

use super::interpreter::Shell;
use super::options::Options;
use crate::kubelet::tree::{Node, TreePath};

pub(super) async fn ls(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let options = match Options::parse(args, "laA1dhRF", "") {
        Ok(options) if !options.has('R') && !options.has('F') => options,
        Ok(_) => {
            return shell
                .fail(
                    "ls",
                    "-R and -F are not supported in this simulated container",
                )
                .await;
        }
        Err(message) => return shell.fail("ls", message).await,
    };
    let names = match &*options.rest {
        [] => vec![".".to_owned()],
        names => names.to_vec(),
    };
    let (mut status, mut is_first) = (0, true);
    for name in &names {
        let mut text = String::new();
        let path = shell.path(name);
        let Some(node) = shell.world.node(&path) else {
            status = shell
                .fail("ls", format!("{name}: No such file or directory"))
                .await?;
            continue;
        };
        if !node.is_directory() || options.has('d') {
            line(&mut text, &options, name, &node);
            shell.io.stdout.write(text).await?;
            is_first = false;
            continue;
        }
        if names.len() > 1 {
            let gap = if is_first { "" } else { "\n" };
            text.extend([gap, name, ":\n"]);
        }
        let children = shell.world.children(&path);
        if options.has('l') {
            // A String takes all text.
            let _ = writeln!(text, "total {}", children.len());
        }
        if options.has('a') {
            let above = shell
                .world
                .node(&path.parent())
                .unwrap_or_else(|| node.clone());
            line(&mut text, &options, ".", &node);
            line(&mut text, &options, "..", &above);
        }
        for (child, node) in children {
            let hidden = child.name().starts_with('.');
            if !hidden || options.has('a') || options.has('A') {
                line(&mut text, &options, child.name(), &node);
            }
        }
        // Written one by one: many names of a large directory would be too much at once.
        shell.io.stdout.write(text).await?;
        is_first = false;
    }
    Ok(status)
}

fn line(text: &mut String, options: &Options, name: &str, node: &Node) {
    if !options.has('l') {
        text.push_str(name);
        text.push('\n');
        return;
    }
    let kind = if node.is_directory() { 'd' } else { '-' };
    let mut mode = String::from(kind);
    for (shift, letter) in (0..9).rev().zip("rwx".chars().cycle()) {
        mode.push(if node.mode >> shift & 1 == 1 {
            letter
        } else {
            '-'
        });
    }
    let time = node.modified.to_zoned(TimeZone::UTC);
    let time = jiff::fmt::strtime::format("%b %e %H:%M", &time).unwrap_or_default();
    let size = node.size();
    // A String takes all text.
    let _ = writeln!(
        text,
        "{mode}    1 root     root     {size:>9} {time} {name}"
    );
}

/// `test` and `[`: 0 for true, 1 for false, 2 for what is no test.
pub(super) async fn test(shell: &mut Shell<'_>, name: &str, args: &[String]) -> io::Result<i32> {
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    if name == "[" && args.pop() != Some("]") {
        return shell.fail(name, "missing ]").await.map(|_| 2);
    }
    match evaluate(shell, &args) {
        Ok(holds) => Ok(i32::from(!holds)),
        Err(message) => shell.fail(name, message).await.map(|_| 2),
    }
}

fn evaluate(shell: &Shell<'_>, args: &[&str]) -> Result<bool, String> {
    let negations = args.iter().take_while(|arg| **arg == "!").count();
    // `test !` and `test ! = x` speak of the text.
    let negations = if matches!(args.len() - negations, 0)
        || args.get(1).is_some_and(|op| matches!(*op, "=" | "!="))
    {
        0
    } else {
        negations
    };
    let holds = match &args[negations..] {
        [] => false,
        [text] => !text.is_empty(),
        [operator, operand] => unary(shell, operator, operand)?,
        [left, operator, right] => binary(left, operator, right)?,
        _ => return Err("too many arguments for this simulated container".to_owned()),
    };
    Ok(holds == (negations % 2 == 0))
}

fn unary(shell: &Shell<'_>, operator: &str, operand: &str) -> Result<bool, String> {
    let node = shell.world.node(&shell.path(operand));
    Ok(match operator {
        "-n" => !operand.is_empty(),
        "-z" => operand.is_empty(),
        "-e" | "-r" => node.is_some(),
        "-f" => node.is_some_and(|node| !node.is_directory()),
        "-d" => node.is_some_and(|node| node.is_directory()),
        "-s" => node.is_some_and(|node| node.is_directory() || node.size() > 0),
        "-x" => node.is_some_and(|node| node.mode & 0o111 != 0),
        "-w" => {
            let path = shell.path(operand);
            node.is_some()
                && !shell
                    .world
                    .read_only
                    .iter()
                    .any(|mount| path.is_within(mount))
        }
        "-h" | "-L" => false,
        "-t" => shell.io.stdin.is_tty(),
        _ => return Err(format!("{operator}: unknown operand")),
    })
}

fn binary(left: &str, operator: &str, right: &str) -> Result<bool, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<i64>();
        number.map_err(|_| format!("{text}: bad number"))
    };
    Ok(match operator {
        "=" | "==" => left == right,
        "!=" => left != right,
        "-eq" => number(left)? == number(right)?,
        "-ne" => number(left)? != number(right)?,
        "-lt" => number(left)? < number(right)?,
        "-le" => number(left)? <= number(right)?,
        "-gt" => number(left)? > number(right)?,
        "-ge" => number(left)? >= number(right)?,
        _ => return Err(format!("{operator}: unknown operand")),
    })
}

pub(super) async fn mkdir(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let options = match Options::parse(args, "p", "m") {
        Ok(options) => options,
        Err(message) => return shell.fail("mkdir", message).await,
    };
    let mut status = 0;
    for name in &options.rest {
        let path = shell.path(name);
        let made = if options.has('p') {
            shell.world.make_directories(&path, 0o755)
        } else {
            shell.world.make_directory(path, 0o755)
        };
        if let Err(error) = made {
            let message = format!("can't create directory '{name}': {error}");
            status = shell.fail("mkdir", message).await?;
        }
    }
    Ok(status)
}

pub(super) async fn rm(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let options = match Options::parse(args, "rRf", "") {
        Ok(options) => options,
        Err(message) => return shell.fail("rm", message).await,
    };
    let (recursive, force) = (options.has('r') || options.has('R'), options.has('f'));
    let mut status = 0;
    for name in &options.rest {
        let path = shell.path(name);
        let message = if path == TreePath::root() || shell.world.is_directory(&path) && !recursive {
            Some("Is a directory".to_owned())
        } else if force && shell.world.node(&path).is_none() {
            None
        } else {
            shell
                .world
                .remove(&path)
                .err()
                .map(|error| error.to_string())
        };
        if let Some(message) = message {
            status = shell
                .fail("rm", format!("can't remove '{name}': {message}"))
                .await?;
        }
    }
    Ok(status)
}

pub(super) async fn touch(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let mut status = 0;
    for name in args {
        let path = shell.path(name);
        let node = shell.world.node(&path);
        if node.as_ref().is_some_and(Node::is_directory) {
            continue;
        }
        let mode = node.as_ref().map_or(0o644, |node| node.mode);
        let content = node.and_then(|node| node.content).unwrap_or_default();
        if let Err(error) = shell.world.write(path, content, mode) {
            status = shell.fail("touch", format!("{name}: {error}")).await?;
        }
    }
    Ok(status)
}
