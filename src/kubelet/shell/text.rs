//! `cat`, `head`, `tail`, `wc` and `grep`: commands that read streams.

use std::collections::VecDeque;
use std::io;

use regex::bytes::{Regex, RegexBuilder};
use tokio::sync::Semaphore;

use super::interpreter::Shell;
use super::io::Input;
use super::options::Options;
use super::variables::Memory;

/// Most bytes that `tail` keeps.
const TAIL_MAX: usize = 8 << 20;
/// Most memory of a compiled pattern of `grep`.
const PATTERN_BYTES_MAX: usize = 128 << 10;
/// Longest line that `grep` looks at between two other tasks.
const QUICK_LINE_MAX: usize = 4 << 10;

/// What a command reads: stdin for `-` and for none.
fn inputs<'a>(shell: &Shell<'a>, names: &[String]) -> Vec<(String, Result<Input<'a>, String>)> {
    if names.is_empty() {
        return vec![("-".to_owned(), Ok(shell.io.stdin.clone()))];
    }
    let open = |name: &String| {
        let input = match &**name {
            "-" | "/dev/stdin" => Ok(shell.io.stdin.clone()),
            "/dev/null" => Ok(Input::empty()),
            name => shell
                .world
                .read(&shell.path(name))
                .map(Input::bytes)
                .map_err(|error| format!("{name}: {error}")),
        };
        (name.clone(), input)
    };
    names.iter().map(open).collect()
}

pub(super) async fn cat(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let options = match Options::parse(args, "u", "") {
        Ok(options) => options,
        Err(message) => return shell.fail("cat", message).await,
    };
    let mut status = 0;
    for (_, input) in inputs(shell, &options.rest) {
        let input = match input {
            Ok(input) => input,
            Err(message) => {
                status = shell.fail("cat", format!("can't open {message}")).await?;
                continue;
            }
        };
        loop {
            let chunk = input.chunk().await?;
            if chunk.is_empty() {
                break;
            }
            shell.io.stdout.write(chunk).await?;
        }
    }
    Ok(status)
}

pub(super) async fn head(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let options = match Options::parse(args, "q", "nc") {
        Ok(options) => options,
        Err(message) => return shell.fail("head", message).await,
    };
    let (by_bytes, count) = match (options.value('c'), options.value('n')) {
        (Some(count), _) => (true, count),
        (None, count) => (false, count.unwrap_or("10")),
    };
    let Ok(count) = count.parse::<usize>() else {
        return shell
            .fail("head", format!("invalid number {count:?}"))
            .await;
    };
    let mut status = 0;
    for (_, input) in inputs(shell, &options.rest) {
        let input = match input {
            Ok(input) => input,
            Err(message) => {
                status = shell.fail("head", message).await?;
                continue;
            }
        };
        let mut left = count;
        while left > 0 {
            let mut piece = if by_bytes {
                input.chunk().await?
            } else {
                input.line().await?
            };
            if piece.is_empty() {
                break;
            }
            if by_bytes {
                piece.truncate(left);
                left -= piece.len();
            } else if piece.ends_with(b"\n") {
                left -= 1;
            }
            shell.io.stdout.write(piece).await?;
        }
    }
    Ok(status)
}

pub(super) async fn tail(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    // `tail -c+N` is what kubectl cp sends to go on after a broken connection.
    let options = match Options::parse(args, "q", "nc") {
        Ok(options) => options,
        Err(message) => return shell.fail("tail", message).await,
    };
    let (by_bytes, count) = match (options.value('c'), options.value('n')) {
        (Some(count), _) => (true, count),
        (None, count) => (false, count.unwrap_or("10")),
    };
    let (from_start, number) = match count.strip_prefix('+') {
        Some(number) => (true, number),
        None => (false, count.strip_prefix('-').unwrap_or(count)),
    };
    let Ok(number) = number.parse::<usize>() else {
        return shell
            .fail("tail", format!("invalid number {count:?}"))
            .await;
    };
    let mut status = 0;
    for (_, input) in inputs(shell, &options.rest) {
        status = match input {
            Ok(input) if from_start => {
                after(shell, &input, number.saturating_sub(1), by_bytes).await?;
                status
            }
            Ok(input) => {
                last(shell, &input, number, by_bytes).await?;
                status
            }
            Err(message) => shell.fail("tail", message).await?,
        };
    }
    Ok(status)
}

/// All but the first `skip` lines or bytes.
async fn after(
    shell: &Shell<'_>,
    input: &Input<'_>,
    skip: usize,
    by_bytes: bool,
) -> io::Result<()> {
    let mut skip = skip;
    loop {
        let lines = skip > 0 && !by_bytes;
        let piece = if lines {
            input.line().await?
        } else {
            input.chunk().await?
        };
        if piece.is_empty() {
            return Ok(());
        }
        if lines {
            skip -= usize::from(piece.ends_with(b"\n"));
            continue;
        }
        let skipped = skip.min(piece.len());
        skip -= skipped;
        shell.io.stdout.write(&piece[skipped..]).await?;
    }
}

/// The last `count` lines or bytes.
async fn last(
    shell: &Shell<'_>,
    input: &Input<'_>,
    count: usize,
    by_bytes: bool,
) -> io::Result<()> {
    let mut memory = Memory::of_input(&shell.world.scratch, TAIL_MAX);
    let (mut kept, mut size, mut ends) = (VecDeque::<Vec<u8>>::new(), 0, 0);
    loop {
        let piece = if by_bytes {
            input.chunk().await?
        } else {
            input.line().await?
        };
        if piece.is_empty() {
            break;
        }
        memory.take(piece.len())?;
        size += piece.len();
        ends += usize::from(piece.ends_with(b"\n"));
        kept.push_back(piece);
        while let Some(first) = kept.front() {
            let spare = if by_bytes {
                size - first.len() >= count
            } else {
                // A last line without its end counts too.
                let open = kept.back().is_some_and(|last| !last.ends_with(b"\n"));
                ends + usize::from(open) > count
            };
            if !spare {
                break;
            }
            memory.give_back(first.len());
            size -= first.len();
            ends -= usize::from(first.ends_with(b"\n"));
            kept.pop_front();
        }
    }
    let mut skip = if by_bytes {
        size.saturating_sub(count)
    } else {
        0
    };
    for piece in kept {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        shell.io.stdout.write(&piece[skipped..]).await?;
    }
    Ok(())
}

pub(super) async fn wc(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let options = match Options::parse(args, "lwc", "") {
        Ok(options) => options,
        Err(message) => return shell.fail("wc", message).await,
    };
    let all = !['l', 'w', 'c'].into_iter().any(|flag| options.has(flag));
    let inputs = inputs(shell, &options.rest);
    let (mut status, mut total, several) = (0, [0_u64; 3], inputs.len() > 1);
    let line = |counts: [u64; 3], name: &str| {
        let chosen = ['l', 'w', 'c'].into_iter().zip(counts);
        let chosen = chosen.filter(|(flag, _)| all || options.has(*flag));
        let mut fields: Vec<_> = chosen.map(|(_, count)| count.to_string()).collect();
        if name != "-" {
            fields.push(name.to_owned());
        }
        fields.join(" ") + "\n"
    };
    for (name, input) in inputs {
        let input = match input {
            Ok(input) => input,
            Err(message) => {
                status = shell.fail("wc", message).await?;
                continue;
            }
        };
        let (mut counts, mut in_word) = ([0_u64; 3], false);
        loop {
            let chunk = input.chunk().await?;
            if chunk.is_empty() {
                break;
            }
            counts[2] += chunk.len() as u64;
            for byte in chunk {
                counts[0] += u64::from(byte == b'\n');
                let space = byte.is_ascii_whitespace();
                counts[1] += u64::from(!space && !in_word);
                in_word = !space;
            }
        }
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
        shell.io.stdout.write(line(counts, &name)).await?;
    }
    if several {
        shell.io.stdout.write(line(total, "total")).await?;
    }
    Ok(status)
}

pub(super) async fn grep(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let options = match Options::parse(args, "ivcnqFEhs", "e") {
        Ok(options) => options,
        Err(message) => return trouble(shell, message).await,
    };
    let (pattern, files) = match (options.value('e'), options.rest.split_first()) {
        (Some(pattern), _) => (pattern, &*options.rest),
        (None, Some((pattern, files))) => (&**pattern, files),
        (None, None) => return trouble(shell, "usage: grep [-ivcnqFE] PATTERN [FILE]...").await,
    };
    let pattern = match (options.has('F'), options.has('E')) {
        (true, _) => regex::escape(pattern),
        (false, true) => pattern.to_owned(),
        (false, false) => extended(pattern),
    };
    let pattern = RegexBuilder::new(&pattern)
        .case_insensitive(options.has('i'))
        // Of all of Unicode a single `\w` is half as large as a pattern may be.
        .unicode(!pattern.is_ascii())
        .size_limit(PATTERN_BYTES_MAX)
        .build();
    let pattern = match pattern {
        Ok(pattern) => pattern,
        Err(error) => return trouble(shell, error).await,
    };
    let inputs = inputs(shell, files);
    let (mut found, mut failed, several) = (false, false, inputs.len() > 1);
    for (name, input) in inputs {
        let input = match input {
            Ok(input) => input,
            Err(message) => {
                failed = true;
                trouble(shell, message).await?;
                continue;
            }
        };
        let prefix = if several && !options.has('h') {
            format!("{name}:")
        } else {
            String::new()
        };
        let (mut number, mut count) = (0_u64, 0_u64);
        loop {
            let mut line = input.line().await?;
            if line.is_empty() {
                break;
            }
            tokio::task::yield_now().await;
            number += 1;
            if line.ends_with(b"\n") {
                line.pop();
            }
            let (line, matches) = matched(&pattern, line).await?;
            if matches == options.has('v') {
                continue;
            }
            (found, count) = (true, count + 1);
            if options.has('q') {
                return Ok(0);
            }
            if !options.has('c') {
                let mut text = prefix.clone().into_bytes();
                if options.has('n') {
                    text.extend(format!("{number}:").into_bytes());
                }
                text.extend(line);
                text.push(b'\n');
                shell.io.stdout.write(text).await?;
            }
        }
        if options.has('c') {
            shell.io.stdout.write(format!("{prefix}{count}\n")).await?;
        }
    }
    Ok(match (failed, found) {
        (true, _) => 2,
        (false, true) => 0,
        (false, false) => 1,
    })
}

/// Looks for a pattern in a line, which can take as long as the product of their lengths.
async fn matched(pattern: &Regex, line: Vec<u8>) -> io::Result<(Vec<u8>, bool)> {
    // One after the other: they take a processor for as long as they like, and pods need one too.
    static TURN: Semaphore = Semaphore::const_new(1);
    if line.len() <= QUICK_LINE_MAX {
        let matches = pattern.is_match(&line);
        return Ok((line, matches));
    }
    let turn = TURN.acquire().await.expect("it is never closed");
    let pattern = pattern.clone();
    let look = move || {
        let matches = pattern.is_match(&line);
        drop(turn);
        (line, matches)
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(io::Error::other)
}

async fn trouble(shell: &Shell<'_>, message: impl std::fmt::Display) -> io::Result<i32> {
    shell.fail("grep", message).await.map(|_| 2)
}

/// A basic regular expression as an extended one: in the first `\|` and `\(` are special, in the
/// second `|` and `(`.
fn extended(basic: &str) -> String {
    const SWAPPED: &str = "|+?(){}";
    let mut result = String::with_capacity(basic.len());
    let mut characters = basic.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(next) if SWAPPED.contains(next) => result.push(next),
                Some(next) => result.extend(['\\', next]),
                None => result.push('\\'),
            },
            character if SWAPPED.contains(character) => result.extend(['\\', character]),
            character => result.push(character),
        }
    }
    result
}
