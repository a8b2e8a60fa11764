//! `tar`, as `kubectl cp` uses it: to stdout and from stdin.

use std::io;

use jiff::Timestamp;
use tar::{Archive, Builder, EntryType, Header};

use super::interpreter::Shell;
use crate::kubelet::tree::{Node, TreePath};

/// Most problems that are told of one archive.
const PROBLEMS_MAX: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Create,
    Extract,
    List,
}

#[derive(Debug)]
struct Request {
    mode: Mode,
    verbose: bool,
    keep_time: bool,
    directory: String,
    members: Vec<String>,
}

pub(super) async fn tar(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let request = match Request::parse(args) {
        Ok(request) => request,
        Err(message) => return shell.fail("tar", message).await.map(|_| 2),
    };
    let directory = shell.path(&request.directory);
    if !shell.world.is_directory(&directory) {
        let message = format!(
            "can't change directory to '{}': No such file or directory",
            request.directory
        );
        return shell.fail("tar", message).await;
    }
    match request.mode {
        Mode::Create => create(shell, &directory, &request).await,
        Mode::Extract | Mode::List => extract(shell, &directory, &request).await,
    }
}

impl Request {
    fn parse(args: &[String]) -> Result<Self, String> {
        let (mut mode, mut file) = (None, None::<String>);
        let mut request = Self {
            mode: Mode::List,
            verbose: false,
            keep_time: true,
            directory: ".".to_owned(),
            members: Vec::new(),
        };
        let mut args = args.iter().enumerate();
        while let Some((number, arg)) = args.next() {
            if let Some(long) = arg.strip_prefix("--") {
                if !["no-same-permissions", "no-same-owner"].contains(&long) {
                    return Err(format!("{arg}: not supported in this simulated container"));
                }
                continue;
            }
            let letters = match arg.strip_prefix('-') {
                Some(letters) => letters,
                None if number == 0 => arg,
                None => {
                    request.members.push(arg.clone());
                    continue;
                }
            };
            let mut value = |letter| {
                let next = args.next().map(|(_, value)| value.clone());
                next.ok_or_else(|| format!("option requires an argument: -{letter}"))
            };
            let mut rest: std::str::Chars<'_> = letters.chars();
            while let Some(letter) = rest.next() {
                match letter {
                    'c' => mode = Some(Mode::Create),
                    'x' => mode = Some(Mode::Extract),
                    't' => mode = Some(Mode::List),
                    'v' => request.verbose = true,
                    'm' => request.keep_time = false,
                    'p' | 'o' => {}
                    'f' | 'C' => {
                        let attached = std::mem::replace(&mut rest, "".chars()).as_str().to_owned();
                        let given = if attached.is_empty() {
                            value(letter)?
                        } else {
                            attached
                        };
                        if letter == 'f' {
                            file = Some(given);
                        } else {
                            request.directory = given;
                        }
                    }
                    _ => {
                        return Err(format!(
                            "-{letter}: not supported in this simulated container"
                        ));
                    }
                }
            }
        }
        request.mode = mode.ok_or("one of c, x and t must be given")?;
        if file.as_deref().is_some_and(|file| file != "-") {
            return Err("only `f -` is supported in this simulated container".to_owned());
        }
        if request.mode == Mode::Create && request.members.is_empty() {
            return Err("empty archive".to_owned());
        }
        Ok(request)
    }

    /// Whether a member is to be taken out: all are, unless some are named.
    fn wants(&self, name: &str) -> bool {
        let is_in = |member: &String| {
            let rest = name.strip_prefix(member.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.members.is_empty() || self.members.iter().any(is_in)
    }
}

async fn create(shell: &Shell<'_>, directory: &TreePath, request: &Request) -> io::Result<i32> {
    let mut builder = Builder::new(Vec::new());
    let mut status = 0;
    for member in &request.members {
        let path = directory.join(member);
        if shell.world.node(&path).is_none() {
            status = shell
                .fail("tar", format!("{member}: No such file or directory"))
                .await?;
            continue;
        }
        let name = member_name(member);
        if name.len() < member.len() {
            let stripped = &member[..member.len() - name.len()];
            let message = format!("tar: Removing leading `{stripped}' from member names\n");
            shell.io.stderr.write(message).await?;
        }
        let root = shell.world.node(&path).map(|node| (path.clone(), node));
        let below = shell
            .world
            .walk(&path)
            .into_iter()
            .filter(|(below, _)| *below != path);
        for (entry, node) in root.into_iter().chain(below) {
            let below = entry.to_string();
            let below = below.strip_prefix(&*path.to_string()).unwrap_or_default();
            let name = format!(
                "{}/{}",
                name.trim_end_matches('/'),
                below.trim_start_matches('/')
            );
            let name = name.trim_matches('/');
            let name = if name.is_empty() { "." } else { name };
            append(&mut builder, name, &node)?;
            if request.verbose {
                shell.io.stderr.write(format!("{name}\n")).await?;
            }
            // Sent entry by entry, so that no archive is ever whole in memory.
            shell
                .io
                .stdout
                .write(std::mem::take(builder.get_mut()))
                .await?;
        }
    }
    shell.io.stdout.write(builder.into_inner()?).await?;
    Ok(status)
}

/// The name of a member: without slashes and steps upward at its start, which an archive must not have.
fn member_name(member: &str) -> &str {
    let mut end = 0;
    let mut at = 0;
    for part in member.split_inclusive('/') {
        at += part.len();
        match part.trim_end_matches('/') {
            "" | ".." => end = at,
            _ => break,
        }
    }
    &member[end..]
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, node: &Node) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(node.modified.as_second()).unwrap_or(0));
    match &node.content {
        None => {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, format!("{name}/"), io::empty())
        }
        Some(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, &**content)
        }
    }
}

async fn extract(shell: &Shell<'_>, directory: &TreePath, request: &Request) -> io::Result<i32> {
    let mut room = shell.world.scratch.room();
    let mut bytes = Vec::new();
    loop {
        let chunk = shell.io.stdin.chunk().await?;
        if chunk.is_empty() {
            break;
        }
        if let Err(full) = room.grow(chunk.len()) {
            return shell.fail("tar", format!("write error: {full}")).await;
        }
        bytes.extend(chunk);
    }
    if bytes.is_empty() {
        return shell.fail("tar", "short read").await;
    }
    let (members, end) = members(&bytes);
    let mut problems = 0;
    for member in members {
        // Others have their turn: all of an archive at once would hold up the whole process.
        tokio::task::yield_now().await;
        if problems >= PROBLEMS_MAX {
            return shell.fail("tar", "too many errors").await;
        }
        if !request.wants(&member.name) {
            continue;
        }
        if request.verbose || request.mode == Mode::List {
            shell.io.stdout.write(format!("{}\n", member.name)).await?;
        }
        if request.mode == Mode::List {
            continue;
        }
        if let Err(message) = unpack(shell, directory, request, &member) {
            let message = format!("{}: {message}", member.name);
            shell.fail("tar", message).await?;
            problems += 1;
        }
    }
    if let Err(error) = end {
        return shell.fail("tar", error).await;
    }
    Ok(i32::from(problems > 0))
}

/// A member of an archive.
struct Member<'a> {
    name: String,
    kind: EntryType,
    mode: u32,
    modified: Option<Timestamp>,
    content: &'a [u8],
}

/// The members of an archive up to where it ends or is broken.
fn members(bytes: &[u8]) -> (Vec<Member<'_>>, io::Result<()>) {
    let mut members = Vec::new();
    let mut read = || {
        for entry in Archive::new(bytes).entries()? {
            let entry = entry?;
            let content = usize::try_from(entry.raw_file_position()).ok();
            let content = content.and_then(|start| bytes.get(start..));
            let content = content.unwrap_or_default();
            let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
            let header = entry.header();
            let modified = header.mtime().ok();
            let modified = modified.and_then(|at| i64::try_from(at).ok());
            members.push(Member {
                name: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
                kind: header.entry_type(),
                mode: header.mode().unwrap_or(0o644) & 0o777,
                modified: modified.and_then(|at| Timestamp::from_second(at).ok()),
                content: &content[..size.min(content.len())],
            });
        }
        Ok(())
    };
    let end = read();
    (members, end)
}

fn unpack(
    shell: &Shell<'_>,
    directory: &TreePath,
    request: &Request,
    member: &Member<'_>,
) -> Result<(), String> {
    if member.name.split('/').any(|part| part == "..") {
        return Err("a name with `..` is not taken out of an archive".to_owned());
    }
    let world = shell.world;
    let path = directory.join(member.name.trim_start_matches('/'));
    let modified = member.modified.filter(|_| request.keep_time);
    match member.kind {
        EntryType::Directory => {
            let made = world.make_directories(&path, member.mode);
            made.map_err(|error| error.to_string())
        }
        EntryType::Regular | EntryType::Continuous => {
            let made = world.make_directories(&path.parent(), 0o755);
            made.map_err(|error| error.to_string())?;
            let modified = modified.unwrap_or_else(|| world.now());
            let node = Node::file(member.content.to_vec(), member.mode, modified);
            world.put(path, node).map_err(|error| error.to_string())
        }
        // Sparse files among them: their holes can be of any size.
        _ => Err(
            "neither a file nor a directory, not supported in this simulated container".to_owned(),
        ),
    }
}
