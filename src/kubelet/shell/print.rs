//! `echo`, `printf` and `date`: commands that write what they are told.

use std::io;

use jiff::tz::TimeZone;

use super::interpreter::Shell;
use super::variables::Memory;

/// Widest field of `printf`.
const WIDTH_MAX: usize = 4096;

pub(super) async fn echo(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let is_flags = |arg: &&String| {
        arg.len() > 1 && arg.starts_with('-') && arg[1..].chars().all(|c| "neE".contains(c))
    };
    let flags = args.iter().take_while(is_flags).count();
    let given: String = args[..flags].concat();
    let mut text = args[flags..].join(" ");
    let mut goes_on = true;
    if given.contains('e') {
        (text, goes_on) = unescaped(&text);
    }
    if !given.contains('n') && goes_on {
        text.push('\n');
    }
    shell.io.stdout.write(text).await?;
    Ok(0)
}

/// The text with its escapes replaced, and whether output goes on after it (`\c` ends it).
fn unescaped(text: &str) -> (String, bool) {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '\\' {
            result.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => result.push('\n'),
            Some('t') => result.push('\t'),
            Some('r') => result.push('\r'),
            Some('a') => result.push('\u{7}'),
            Some('e') => result.push('\u{1b}'),
            Some('0') => {
                let mut code = 0;
                for _ in 0..3 {
                    let Some(digit) = characters.peek().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    code = code * 8 + digit;
                    characters.next();
                }
                result.extend(char::from_u32(code & 0xff));
            }
            Some('c') => return (result, false),
            Some('\\') | None => result.push('\\'),
            Some(other) => result.extend(['\\', other]),
        }
    }
    (result, true)
}

pub(super) async fn printf(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let Some((format, mut args)) = args.split_first() else {
        return shell
            .fail("printf", "usage: printf FORMAT [ARGUMENT]...")
            .await;
    };
    loop {
        let before = args.len();
        match formatted(format, &mut args, &mut shell.memory()) {
            Ok(text) => shell.io.stdout.write(text).await?,
            Err(message) => return shell.fail("printf", message).await,
        }
        // The format is used again while it uses up arguments.
        if args.is_empty() || args.len() == before {
            return Ok(0);
        }
    }
}

fn formatted(format: &str, args: &mut &[String], memory: &mut Memory) -> Result<String, String> {
    let (format, _) = unescaped(format);
    let mut result = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            result.push(character);
            continue;
        }
        let (mut left, mut zeros, mut width) = (false, false, String::new());
        while let Some(flag) = characters.next_if(|c| c.is_ascii_digit() || *c == '-') {
            match flag {
                '-' => left = true,
                '0' if width.is_empty() => zeros = true,
                digit => width.push(digit),
            }
        }
        let conversion = characters.next();
        if conversion == Some('%') {
            result.push('%');
            continue;
        }
        let arg = args.split_first().map(|(arg, rest)| {
            *args = rest;
            arg.as_str()
        });
        let arg = arg.unwrap_or_default();
        let number = || match arg {
            "" => Ok(0),
            arg => arg
                .parse::<i64>()
                .map_err(|_| format!("invalid number {arg:?}")),
        };
        let text = match conversion {
            Some('s') => arg.to_owned(),
            Some('b') => unescaped(arg).0,
            Some('c') => arg.chars().take(1).collect(),
            Some('d' | 'i' | 'u') => number()?.to_string(),
            Some('x') => format!("{:x}", number()?),
            Some('o') => format!("{:o}", number()?),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(format!(
                    "%{other}: not supported in this simulated container"
                ));
            }
        };
        let width = width.parse().unwrap_or(0).min(WIDTH_MAX);
        memory
            .take(text.len().max(width))
            .map_err(|error| error.to_string())?;
        let padded = match (left, zeros && conversion != Some('s')) {
            (true, _) => format!("{text:<width$}"),
            (false, true) => format!("{text:0>width$}"),
            (false, false) => format!("{text:>width$}"),
        };
        result.push_str(&padded);
    }
    Ok(result)
}

pub(super) async fn date(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let mut format = "%a %b %e %H:%M:%S %Z %Y";
    for arg in args {
        match (arg.strip_prefix('+'), &**arg) {
            (Some(given), _) => format = given,
            (None, "-u" | "--utc") => {}
            (None, "-R") => format = "%a, %d %b %Y %H:%M:%S %z",
            (None, "-Iseconds" | "-Is") => format = "%Y-%m-%dT%H:%M:%S%:z",
            (None, _) => {
                let message = format!("{arg}: not supported in this simulated container");
                return shell.fail("date", message).await;
            }
        }
    }
    // A field of the format is padded to at most 255 characters.
    shell.memory().take(format.len().saturating_mul(64))?;
    let now = shell.world.now().to_zoned(TimeZone::UTC);
    match jiff::fmt::strtime::format(format, &now) {
        Ok(text) => {
            shell.io.stdout.write(text + "\n").await?;
            Ok(0)
        }
        Err(error) => shell.fail("date", error).await,
    }
}
