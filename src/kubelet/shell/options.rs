//! Options of commands, as getopt takes them apart.

/// Options with their values, and the other arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    given: Vec<(char, String)>,
    pub(super) rest: Vec<String>,
}

impl Options {
    /// `flags` stand alone, `valued` take a value. `-5` is `-n 5` where `n` takes a value.
    pub(super) fn parse(args: &[String], flags: &str, valued: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                options.rest.extend(args.cloned());
                break;
            }
            let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                options.rest.push(arg.clone());
                continue;
            };
            if valued.contains('n') && letters.bytes().all(|byte| byte.is_ascii_digit()) {
                options.given.push(('n', letters.to_owned()));
                continue;
            }
            for (at, letter) in letters.char_indices() {
                if flags.contains(letter) {
                    options.given.push((letter, String::new()));
                } else if valued.contains(letter) {
                    let attached = &letters[at + letter.len_utf8()..];
                    let value = if attached.is_empty() {
                        args.next()
                            .cloned()
                            .ok_or_else(|| format!("option requires an argument: -{letter}"))?
                    } else {
                        attached.to_owned()
                    };
                    options.given.push((letter, value));
                    break;
                } else {
                    return Err(format!(
                        "option {arg} is not supported in this simulated container"
                    ));
                }
            }
        }
        Ok(options)
    }

    pub(super) fn has(&self, letter: char) -> bool {
        self.given.iter().any(|(given, _)| *given == letter)
    }

    /// The last value given.
    pub(super) fn value(&self, letter: char) -> Option<&str> {
        let mut given = self.given.iter().rev();
        given
            .find(|(given, _)| *given == letter)
            .map(|(_, value)| &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_apart_as_getopt_does() {
        let parse = |args: &str| {
            let args: Vec<_> = args.split(' ').map(str::to_owned).collect();
            Options::parse(&args, "lv", "nc")
        };
        let options = parse("-lvn3 a -c 4 - -- -x").unwrap();
        assert!(options.has('l') && options.has('v'));
        assert_eq!(
            (options.value('n'), options.value('c')),
            (Some("3"), Some("4"))
        );
        assert_eq!(options.rest, ["a", "-", "-x"]);
        assert_eq!(parse("-5").unwrap().value('n'), Some("5"));
        assert!(parse("-n").is_err() && parse("-x").is_err());
    }
}
