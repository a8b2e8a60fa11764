//! How many pods holdfast serves when no API server holds it up, and whether a pod costs more when
//! there are many: `cargo bench --bench ceiling`.
//!
//! What is measured is the program itself: `pod::run` with its watch and its requests, the agent,
//! and the ledger's writer on a file, each on the thread that it has in the program. Only kube's
//! client ends in a `tower` service of this process ([`api_server`]) in place of a connection, so
//! TLS and HTTP are left out and nothing else is. Nodes, leases, webhook and kubelet API do not run.
//!
//! Each size has a process of its own, since memory that one size gave back would hide what the next
//! one takes. CPU is that of threads, which says something on a loaded machine too; times do not.
//! Numbers after `--` are the sizes. Without `--bench` (`cargo test --benches`) it only shows that
//! it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast::cluster_lease::Tenure;
use holdfast::config::{Config, PROCESS};
use holdfast::kubelet::scratch::ScratchStore;
use holdfast::metrics::{Metrics, Requests};
use holdfast::node::NodeTable;
use holdfast::pod::protobuf;
use holdfast::pod::protobuf::read::{self, Read};
use holdfast::pod::run::{self, Asker};
use holdfast::pod::view::{self, PodView};
use holdfast::serve::{Outside, parts};
use holdfast_provider::ledger::Ledger;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod api_server;
mod cost;
#[path = "../../src/pod/protobuf/tables/mod.rs"]
#[allow(dead_code, reason = "shared with the tests of the encoding")]
mod tables;
#[path = "../../src/pod/testing.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests of the pods"
)]
mod testing;

use api_server::{ApiServer, What, client};
use cost::{Cpu, cpu, resident_bytes, wait_until_quiet};
use tables::{Field, Kind, Message, POD};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods under way: more than the ledger's writer takes into one COMMIT.
const WINDOW: usize = 512;
/// Pods that are made while holdfast is down.
const NEW: usize = 32;
/// Pods that go while holdfast is down.
const GONE: usize = 500;
/// The largest network that a vSwitch can have, and the usable addresses of one.
const PREFIX_MIN: u8 = 16;
const USABLE_MAX: usize = usable(PREFIX_MIN);

/// Less than the networks from 10.64.0.0 on have addresses for.
const SIZE_MAX: usize = 10_000_000;

const fn usable(prefix: u8) -> usize {
    (1 << (32 - prefix)) - 4
}

/// As many vSwitches as so many pods need, whose addresses are not free again when they are gone.
fn config(pods: usize) -> Config {
    let count = pods.div_ceil(USABLE_MAX);
    let prefix = (PREFIX_MIN..=24)
        .rev()
        .find(|prefix| usable(*prefix) * count >= pods)
        .unwrap_or(PREFIX_MIN);
    let vswitches: Vec<String> = (0..count)
        .map(|index| {
            let cidr = format!("10.{}.0.0/{prefix}", 64 + index);
            format!("- {{id: vsw-{index}, zone: cn-wulanchabu-b, cidr: {cidr}}}\n")
        })
        .collect();
    let vswitches = vswitches.concat();
    let text = format!(
        "cluster: bench\nregion: cn-wulanchabu\nprofile: fast\nvswitches:\n{vswitches}\
         nodes:\n- {{zone: cn-wulanchabu-b}}\n"
    );
    Config::parse(&text, Path::new("ceiling"), PROCESS).expect("it is right")
}

fn main() {
    // Cargo passes --bench; `cargo test --benches` does not, and then only shows that it runs.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let whole = args.iter().any(|arg| arg == "--bench");
    if let [flag, size, churn] = args.as_slice()
        && flag == "--one"
    {
        // A warning is a fault of this benchmark, or of what it measures.
        let warnings = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
        warnings.with_writer(std::io::stderr).init();
        let number = |text: &str| text.parse().expect("a number");
        let table = measure(number(size), number(churn));
        println!("{}", serde_json::to_string(&table).expect("plain data"));
        return;
    }
    // Some of the pods of a size go in one step and the others in another.
    let size = |arg: &String| match arg.parse() {
        Ok(size @ 2..=SIZE_MAX) => size,
        _ => panic!("{arg:?} is no size: give numbers of pods from 2 to {SIZE_MAX}"),
    };
    let given = args.iter().filter(|arg| !arg.starts_with("--"));
    let mut sizes: Vec<usize> = given.map(size).collect();
    if sizes.is_empty() {
        sizes = if whole {
            vec![1_000, 10_000, 100_000]
        } else {
            vec![64]
        };
    }
    let churn = if whole { 2_000 } else { 64 };
    let tables: Vec<Table> = sizes
        .iter()
        .map(|size| in_a_process(*size, churn))
        .collect();
    print(&sizes, &tables);
}

/// Figures with their names, in their order.
type Table = Vec<(String, f64)>;

fn in_a_process(size: usize, churn: usize) -> Table {
    eprintln!("{size} pods ...");
    let program = std::env::current_exe().expect("it runs");
    let child = Command::new(program)
        .args(["--one", &size.to_string(), &churn.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    assert!(child.status.success(), "{}", child.status);
    serde_json::from_slice(&child.stdout).expect("a table")
}

fn print(sizes: &[usize], tables: &[Table]) {
    print!("{:<66}", "pods");
    for size in sizes {
        print!("{size:>10}");
    }
    println!();
    for (row, (name, _)) in tables[0].iter().enumerate() {
        print!("{name:<66}");
        for table in tables {
            let value = table[row].1;
            let places = if value.abs() < 100.0 { 2 } else { 0 };
            print!("{value:>10.places$}");
        }
        println!();
    }
}

fn measure(size: usize, churn: usize) -> Table {
    // Where the target directory is, which is on a disk; /tmp may be memory.
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let file = dir.path().join("holdfast.db");
    let server = ApiServer::start(size + churn + NEW);
    let config = config(size + churn + NEW);
    let shell = Shell::start(&file, &config, &server);
    shell.wait_until_serving();
    wait_until_quiet();
    let mut table = Table::new();
    let empty_bytes = resident_bytes();

    play(&mut table, "made", &server, 0..size, What::Create);
    let per_pod = (float(resident_bytes()) - float(empty_bytes)) / float(size);
    put(&mut table, "resident per pod, bytes", per_pod);
    idle(&mut table);
    let lives = size..size + churn;
    play(&mut table, "lives beside them", &server, lives, What::Live);
    let shell = restart(&mut table, shell, &server, &file, size + churn);
    let gone = (size / 2).min(GONE);
    let shell = missed(&mut table, shell, &server, gone);
    play(&mut table, "deleted", &server, gone..size, What::Delete);
    shell.stop();
    table
}

/// Does this with those pods, and what it costs for each.
fn play(
    table: &mut Table,
    what: &str,
    server: &ApiServer,
    pods: std::ops::Range<usize>,
    kind: What,
) {
    let count = float(pods.len());
    let before = Cpu::now();
    let played = server.play(pods, WINDOW, kind).recv().expect("it ends");
    wait_until_quiet();
    let cost = Cpu::now().since(before);
    let per_s = count / (played.last - played.began).as_secs_f64();
    put(table, &format!("{what}: pods/s"), per_s);
    for (thread, time) in [
        ("the agent's thread", cost.agent),
        ("the ledger's thread", cost.ledger),
        ("(the API server's thread)", cost.server),
    ] {
        let us = time.as_secs_f64() * 1e6 / count;
        put(table, &format!("{what}: CPU of {thread} for each, us"), us);
    }
    put(
        table,
        &format!("{what}: writes for each"),
        float(played.writes) / count,
    );
}

/// What standing pods cost while nothing happens.
fn idle(table: &mut Table) {
    const TIME: Duration = Duration::from_secs(3);
    let before = Cpu::now();
    std::thread::sleep(TIME);
    let cost = Cpu::now().since(before);
    let ms = (cost.agent + cost.ledger).as_secs_f64() * 1e3 / TIME.as_secs_f64();
    put(table, "CPU of a second in which nothing happens, ms", ms);
}

/// Leaves the ledger as `kill -9` does, has pods made, and starts again on what was left.
fn restart(
    table: &mut Table,
    shell: Shell,
    server: &ApiServer,
    file: &Path,
    standing_and_gone: usize,
) -> Shell {
    let left = file.with_file_name("left.db");
    for suffix in ["", "-wal"] {
        let name = |file: &Path| format!("{}{suffix}", file.display());
        std::fs::copy(name(file), name(&left)).expect("the ledger is there");
    }
    let config = shell.config.clone();
    shell.stop();
    server.hang_up();
    let new = standing_and_gone..standing_and_gone + NEW;
    let played = server.play(new, NEW, What::Create);

    let began = Instant::now();
    let server_before = cpu("server");
    let shell = Shell::start(&left, &config, server);
    let serving = shell.wait_until_serving();
    let server_cpu = cpu("server").saturating_sub(server_before);
    let played = played.recv().expect("it ends");
    let [Some(asked), Some(listed)] = server.listed() else {
        panic!("it listed");
    };
    let mut ms = |name: &str, time: Duration| {
        put(
            table,
            &format!("after kill -9: {name}, ms"),
            time.as_secs_f64() * 1e3,
        );
    };
    ms("first new pod Running", played.first - began);
    ms("... until the ledger is open", shell.opened - began);
    ms(
        "... then until its rows are loaded",
        shell.loaded - shell.opened,
    );
    ms("... then until the list is asked for", asked - shell.loaded);
    ms("... then until its last page is sent", listed - asked);
    ms("... then until pods are served", serving.at - listed);
    ms(
        "... then until the first new pod runs",
        played.first.saturating_duration_since(serving.at),
    );
    ms("CPU of opening and loading", shell.cpu_of_opening);
    ms(
        "CPU of the agent's thread until pods are served",
        serving.cpu,
    );
    ms("CPU of decoding the list, done apart", decode(server));
    ms("CPU of the API server's thread until then", server_cpu);
    wait_until_quiet();
    shell
}

/// Pods go while holdfast is away: each costs a look by name, and its release.
fn missed(table: &mut Table, shell: Shell, server: &ApiServer, gone: usize) -> Shell {
    let (file, config) = (shell.file.clone(), shell.config.clone());
    shell.stop();
    server.hang_up();
    server.forget(0..gone);
    let shell = Shell::start(&file, &config, server);
    let serving = shell.wait_until_serving();
    wait_until_quiet();
    let us = cpu("agent").saturating_sub(serving.cpu).as_secs_f64() * 1e6 / float(gone);
    let name = format!("{gone} gone meanwhile: CPU of the agent's thread for each, us");
    put(table, &name, us);
    shell
}

/// A list of pods.
static POD_LIST: Message = &[
    Field {
        number: 1,
        name: "metadata",
        kind: Kind::One(LIST_META),
    },
    Field {
        number: 2,
        name: "items",
        kind: Kind::Many(POD),
    },
];

static LIST_META: Message = &[
    Field {
        number: 2,
        name: "resourceVersion",
        kind: Kind::Text,
    },
    Field {
        number: 3,
        name: "continue",
        kind: Kind::Text,
    },
];

/// The token of the next page; pods are read and dropped.
#[derive(Default)]
struct Next(String);

impl Read for Next {
    const NAME: &'static str = "PodList";

    fn take(&mut self, field: &read::Field<'_>) -> Result<(), protobuf::Error> {
        match field.number {
            1 => field.read_into(&mut Token(&mut self.0))?,
            2 => drop(field.message::<PodView>()?),
            _ => {}
        }
        Ok(())
    }
}

struct Token<'a>(&'a mut String);

impl Read for Token<'_> {
    const NAME: &'static str = "ListMeta";

    fn take(&mut self, field: &read::Field<'_>) -> Result<(), protobuf::Error> {
        if field.number == 3 {
            *self.0 = field.text()?;
        }
        Ok(())
    }
}

/// The list decoded once more, with nothing else done: what part of the start that is.
fn decode(server: &ApiServer) -> Duration {
    let (mut from, mut cost) = (0, Duration::ZERO);
    loop {
        let page = server.page(from);
        let before = own_cpu();
        let raw = protobuf::enclosed(&page).expect("an envelope");
        let Next(next) = read::message(&raw).expect("a list");
        cost += own_cpu().saturating_sub(before);
        let Ok(next) = next.parse() else {
            return cost;
        };
        from = next;
    }
}

/// CPU time of this thread.
fn own_cpu() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").expect("/proc is mounted");
    let ns = times.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("a number"))
}

/// When and at what cost pods were served.
struct Serving {
    at: Instant,
    cpu: Duration,
}

/// The program's part that serves pods, as it runs.
struct Shell {
    file: PathBuf,
    config: Config,
    opened: Instant,
    loaded: Instant,
    cpu_of_opening: Duration,
    serving: Receiver<Serving>,
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

impl Shell {
    fn start(file: &Path, config: &Config, server: &ApiServer) -> Self {
        let settings = config.settings("bench".into());
        let cpu_before = own_cpu();
        let ledger = Ledger::open(file, settings.clone(), Timestamp::now()).expect("a ledger");
        let opened = Instant::now();
        let requests = Requests::default();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        let (changes, changed) = watch::channel(settings);
        let (asker, questions) = Asker::new();
        let outside = Outside {
            tenure: Tenure::unshared(),
            questions,
            metrics: Metrics::new(&requests),
            scratch: ScratchStore::default(),
        };
        let client = {
            let _inside = runtime.enter();
            client(server, &requests)
        };
        let table = NodeTable::new(config);
        // There is no API server that has any.
        table.set_listed();
        let parts = parts(config, client, ledger, &table, changed, outside).expect("a ledger");
        let loaded = Instant::now();
        let cpu_of_opening = own_cpu().saturating_sub(cpu_before);
        let shutdown = CancellationToken::new();
        let (serving, mut is_serving) = watch::channel(false);
        let (tell, told) = channel();
        let stop = shutdown.clone();
        let work = async move {
            tokio::spawn(async move {
                is_serving
                    .wait_for(|serving| *serving)
                    .await
                    .expect("it serves");
                let (at, cpu) = (Instant::now(), own_cpu());
                tell.send(Serving { at, cpu }).expect("it is awaited");
            });
            run::run(parts, serving, stop)
                .await
                .expect("the ledger is sound");
            // Both are held by who reloads and who asks.
            drop((changes, asker));
        };
        let thread = std::thread::Builder::new()
            .name("agent".into())
            .spawn(move || runtime.block_on(work))
            .expect("a thread");
        Self {
            file: file.to_owned(),
            config: config.clone(),
            opened,
            loaded,
            cpu_of_opening,
            serving: told,
            shutdown,
            thread,
        }
    }

    fn wait_until_serving(&self) -> Serving {
        self.serving.recv().expect("it serves")
    }

    fn stop(self) {
        self.shutdown.cancel();
        self.thread.join().expect("it stops in order");
    }
}

fn put(table: &mut Table, name: &str, value: f64) {
    table.push((name.to_owned(), value));
}

#[expect(clippy::cast_precision_loss, reason = "figures are small")]
fn float(number: impl TryInto<u64, Error: std::fmt::Debug>) -> f64 {
    number.try_into().expect("a small number") as f64
}
