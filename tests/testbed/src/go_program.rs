//! Programs that are built out of Go modules, once, and kept in the target directory: the control plane, and peers.
//!
//! The name of the cached directory contains a hash of the Go sources, so a change to them builds anew and an old checkout
//! finds its old file. Needs Go only when it has to build.

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    hash::{DefaultHasher, Hasher},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a line says that the build still goes on.
const PROGRESS_PERIOD: Duration = Duration::from_secs(10);

/// A program out of a Go module of this repository.
#[derive(Clone, Copy, Debug)]
pub struct GoProgram {
    /// What people call it.
    what: &'static str,
    /// Name of the program, and of its directory in the target directory.
    name: &'static str,
    /// Its module's directory, below `tests`.
    dir: &'static str,
    /// The package to build, as `go build` takes it, and how.
    package: &'static str,
    kind: Kind,
    /// How long a first build takes on 2 cores.
    minutes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A program that reports the Kubernetes version of its `go.mod`.
    Kubernetes,
    Plain,
    /// The tests of the package.
    Test,
}

/// etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl by the first argument.
pub const CONTROL_PLANE: GoProgram = GoProgram {
    what: "the Kubernetes control plane",
    name: "controlplane",
    dir: "controlplane",
    package: ".",
    kind: Kind::Kubernetes,
    minutes: 8,
};

/// The last kubectl that prefers SPDY. It is used in place of the control plane's own on request.
pub const KUBECTL_1_30: GoProgram = GoProgram {
    what: "kubectl 1.30",
    name: "kubectl-1.30",
    dir: "peers/kubectl-1.30",
    package: ".",
    kind: Kind::Plain,
    minutes: 2,
};

/// metrics-server, as its project releases it.
pub const METRICS_SERVER: GoProgram = GoProgram {
    what: "metrics-server",
    name: "metrics-server",
    dir: "peers/metrics-server",
    package: "sigs.k8s.io/metrics-server/cmd/metrics-server",
    kind: Kind::Plain,
    minutes: 3,
};

/// KWOK, to compare with.
pub const KWOK: GoProgram = GoProgram {
    what: "KWOK",
    name: "kwok",
    dir: "peers/kwok",
    package: "sigs.k8s.io/kwok/cmd/kwok",
    kind: Kind::Plain,
    minutes: 2,
};

/// The end-to-end cases of virtual-kubelet, unchanged.
pub const VIRTUAL_KUBELET_SUITE: GoProgram = GoProgram {
    what: "virtual-kubelet's end-to-end suite",
    name: "virtual-kubelet",
    dir: "peers/virtual-kubelet",
    package: ".",
    kind: Kind::Test,
    minutes: 3,
};

/// The end of `go build`'s output that an error shows.
const TAIL_LINES: usize = 20;

impl GoProgram {
    /// The path of the program; builds it when these sources have not been built yet.
    ///
    /// A first build downloads modules and takes minutes; it says on standard error how far it is. Processes that ask
    /// at the same time wait for one build. Blocks: call it from `spawn_blocking` in async code.
    ///
    /// # Errors
    /// Go is missing or too old, or the build fails (the error shows the end of its output).
    pub fn path(&self) -> Result<PathBuf> {
        let source = self.source();
        let dir = target_dir()
            .join(self.name)
            .join(format!("{:016x}", hash_of_sources(&source)?));
        let program = dir.join(self.name);
        if program.exists() {
            return Ok(program);
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = File::create(dir.join("lock")).context("cannot make the build's lock file")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say(&format!(
                    "another process builds {}; waiting for it",
                    self.what
                ));
                lock.lock().context("cannot wait for the other build")?;
            }
            Err(TryLockError::Error(e)) => return Err(e).context("cannot take the build's lock"),
        }
        if !program.exists() {
            check_go(&source, self.what)?;
            self.build(&source, &program)?;
        }
        Ok(program)
    }

    fn build(&self, source: &Path, program: &Path) -> Result<()> {
        let began = Instant::now();
        say(&format!(
            "building {} for the tests, once; about {} minutes on 2 cores",
            self.what, self.minutes
        ));
        let partial = program.with_extension("partial");
        let mut go = self
            .go(source, &partial)?
            .spawn()
            .context("cannot run go build")?;
        let output = go.stderr.take().context("go build has no output")?;
        let progress = Mutex::new(Progress::default());
        let status = thread::scope(|scope| {
            scope.spawn(|| collect(output, &progress));
            let mut told = began;
            loop {
                if let Some(status) = go.try_wait()? {
                    return io::Result::Ok(status);
                }
                if told.elapsed() >= PROGRESS_PERIOD {
                    told = Instant::now();
                    let doing = progress
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .doing();
                    say(&format!(
                        "building {}, {} s: {doing}",
                        self.what,
                        began.elapsed().as_secs()
                    ));
                }
                thread::sleep(Duration::from_millis(50));
            }
        })
        .context("cannot wait for go build")?;
        if !status.success() {
            let tail = progress
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .tail;
            bail!(
                "go build in {} failed ({status}):\n{}",
                source.display(),
                Vec::from(tail).join("\n")
            );
        }
        // In one step, so that a process that looks now finds the program whole or not at all.
        fs::rename(&partial, program).context("cannot put the built program in place")?;
        say(&format!(
            "{} is built, {} s",
            self.what,
            began.elapsed().as_secs()
        ));
        Ok(())
    }

    /// A file of the Go module that the program is of, which the module cache has or gets.
    ///
    /// # Errors
    /// Go is missing, or there is no such file.
    pub fn module_file(&self, module: &str, path: &str) -> Result<String> {
        let listed = Command::new("go")
            .args(["mod", "download", "-json", module])
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .current_dir(self.source())
            .output()
            .context("cannot run go")?;
        let answer: serde_json::Value = serde_json::from_slice(&listed.stdout)
            .with_context(|| format!("go mod download does not say where {module} is"))?;
        let dir = answer["Dir"].as_str().with_context(|| {
            format!("go mod download cannot find {module}: {}", answer["Error"])
        })?;
        let path = Path::new(dir).join(path);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(self.dir)
    }

    /// Not -trimpath: it would keep the build from using packages that are compiled already.
    fn go(&self, source: &Path, partial: &Path) -> Result<Command> {
        let mut go = Command::new("go");
        match self.kind {
            Kind::Kubernetes | Kind::Plain => go.args(["build", "-v", "-buildvcs=false"]),
            Kind::Test => go.args(["test", "-c", "-v", "-buildvcs=false"]),
        };
        // Without symbols the program is a third smaller and links faster.
        let mut flags = "-ldflags=-s -w".to_owned();
        if self.kind == Kind::Kubernetes {
            flags = format!("{flags} {}", version_flags(source)?);
        }
        go.arg("-o")
            .arg(partial)
            .arg(flags)
            .arg(self.package)
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .current_dir(source)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Ok(go)
    }
}

/// Where the cached program and the state of running control planes are.
pub(crate) fn cache_dir() -> PathBuf {
    target_dir().join(CONTROL_PLANE.name)
}

/// The target directory that this process was built into, whichever of Cargo's settings chose it.
fn target_dir() -> PathBuf {
    // Cargo marks the directories that it makes.
    let marked = std::env::current_exe().ok().and_then(|program| {
        let mut above = program.ancestors().skip(1);
        above
            .find(|dir| dir.join("CACHEDIR.TAG").exists())
            .map(Path::to_owned)
    });
    marked.unwrap_or_else(|| {
        // One that was there before Cargo has no mark. Joining an absolute path replaces the base; a relative one
        // counts from the workspace, as it does for a Cargo that is run there.
        let chosen = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        workspace.join(chosen.unwrap_or_else(|| "target".into()))
    })
}

/// Standard error itself, because the test harness hides what `eprintln!` writes until a test has failed.
fn say(line: &str) {
    // Nobody is left to be told when standard error is closed.
    let _ = writeln!(io::stderr(), "testbed: {line}");
}

/// A cache key, nothing more: a different hash in another Rust release costs one build.
fn hash_of_sources(source: &Path) -> Result<u64> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = fs::read_dir(source)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        files.retain(|path| {
            path.extension().is_some_and(|e| e == "go")
                || path.ends_with("go.mod")
                || path.ends_with("go.sum")
        });
        files.sort();
        Ok(files)
    };
    let mut hasher = DefaultHasher::new();
    for path in list().with_context(|| format!("cannot list {}", source.display()))? {
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hasher.write(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.write_usize(text.len());
        hasher.write(&text);
    }
    Ok(hasher.finish())
}

/// Refuses a Go that is missing or too old before `go build` does so in words that help nobody.
fn check_go(source: &Path, what: &str) -> Result<()> {
    let go_mod = fs::read_to_string(source.join("go.mod")).context("cannot read go.mod")?;
    let wanted = go_mod
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .context("go.mod names no Go version")?;
    // Outside the module and with GOTOOLCHAIN=local, so that an old Go says its own version and downloads no other.
    let asked = Command::new("go")
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .current_dir(std::env::temp_dir())
        .output();
    let found = match asked {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).context("cannot run go"),
    };
    if let Some(refusal) = refusal(what, &found, wanted) {
        bail!(refusal);
    }
    Ok(())
}

/// The sentence for a Go that will not do; `found` is empty when there is none.
fn refusal(what: &str, found: &str, wanted: &str) -> Option<String> {
    let problem = if found.is_empty() {
        "Go is not installed".to_owned()
    } else if version(found) < version(wanted) {
        format!("{found} is too old")
    } else {
        return None;
    };
    Some(format!(
        "cannot build {what} for the tests: {problem}; install Go {wanted} or newer (https://go.dev/dl) \
         and put it on PATH, or set KUBECONFIG to a cluster of yours"
    ))
}

/// The numbers of `go1.26.8` or `1.26.0`; a development version counts as newer than all others.
fn version(text: &str) -> Vec<u32> {
    if text.starts_with("devel") {
        return vec![u32::MAX];
    }
    text.trim_start_matches("go")
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok())
        .collect()
}

/// What `go build -v` has said so far.
#[derive(Default)]
struct Progress {
    modules_downloaded: usize,
    packages_compiled: usize,
    tail: VecDeque<String>,
}

impl Progress {
    fn note(&mut self, line: String) {
        if line.starts_with("go: downloading ") {
            self.modules_downloaded += 1;
        } else if !line.contains(' ') {
            self.packages_compiled += 1;
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    fn doing(&self) -> String {
        let last = self.tail.back().map_or("", String::as_str);
        if self.packages_compiled > 0 {
            format!(
                "compiling, {} packages so far, now {last}",
                self.packages_compiled
            )
        } else if self.modules_downloaded > 0 {
            format!("downloading, {} modules so far", self.modules_downloaded)
        } else {
            "looking at what is there".to_owned()
        }
    }
}

/// Linker flags that make the program report the Kubernetes version of `go.mod`, which nodes show and clients check.
fn version_flags(source: &Path) -> Result<String> {
    let go_mod = fs::read_to_string(source.join("go.mod")).context("cannot read go.mod")?;
    let version = go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"))
        .context("go.mod requires no k8s.io/kubernetes")?;
    let mut parts = version.split('.');
    let mut part = || parts.next().context("no version of the form 1.2.3");
    let (major, minor) = (part()?, part()?);
    let package = "k8s.io/component-base/version";
    Ok(format!(
        "-X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    ))
}

fn collect(output: impl Read, progress: &Mutex<Progress>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_old_go_is_refused_with_both_ways_out() {
        for (found, problem) in [
            ("", "Go is not installed"),
            ("go1.25.9", "go1.25.9 is too old"),
            ("go1.9", "go1.9 is too old"),
        ] {
            let sentence = refusal("the control plane", found, "1.26.0").unwrap();
            assert!(sentence.contains(problem), "{sentence}");
            assert!(
                sentence.contains("install Go 1.26.0 or newer"),
                "{sentence}"
            );
            assert!(sentence.contains("KUBECONFIG"), "{sentence}");
        }
    }

    #[test]
    fn a_go_as_new_as_asked_or_newer_is_accepted() {
        for found in [
            "go1.26.0",
            "go1.26.8",
            "go1.27rc1",
            "go2.0",
            "devel go1.28-abcdef",
        ] {
            assert_eq!(
                refusal("the control plane", found, "1.26.0"),
                None,
                "{found}"
            );
        }
    }

    #[test]
    fn progress_tells_downloading_and_compiling_apart() {
        let mut progress = Progress::default();
        progress.note("go: downloading k8s.io/api v0.36.3".to_owned());
        assert_eq!(progress.doing(), "downloading, 1 modules so far");
        progress.note("k8s.io/api/core/v1".to_owned());
        assert_eq!(
            progress.doing(),
            "compiling, 1 packages so far, now k8s.io/api/core/v1"
        );
    }
}
