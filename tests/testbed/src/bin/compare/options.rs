//! What is measured, how often and how large: the command line, and what it may not be.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};

/// The most that holdfast takes in one configuration.
const NODES_MAX: usize = 10_000;

/// Calls to the simulated cloud until a pod runs: its ENI is made, attached and seen to be attached.
const CALLS_PER_POD: u64 = 3;

/// Measures holdfast beside KWOK on one Kubernetes control plane, one at a time and in turn.
///
/// Builds what it needs (Rust in release; Kubernetes and KWOK with Go, once), starts a control plane on loopback, and
/// prints a table; what was measured in each round goes to a JSON file. A whole run takes an hour or two. Absolute
/// figures belong to the machine; the ratios are what can be compared.
#[derive(Clone, Debug, Parser)]
#[command(name = "compare", bin_name = "cargo compare")]
pub(crate) struct Options {
    /// One round of small sizes, without KWOK's default of 4 workers: two to three minutes.
    #[arg(long)]
    quick: bool,
    /// Who is measured, in this order in each round [default: all but other; with --quick not kwok-4 either]
    #[arg(long, value_delimiter = ',')]
    systems: Vec<Kind>,
    /// A program of another holdfast, such as one built before a change: the system `other`, measured last unless
    /// --systems says where.
    #[arg(long)]
    other: Option<PathBuf>,
    /// What is measured [default: all].
    #[arg(long, value_delimiter = ',')]
    only: Vec<What>,
    /// How often all but the restart is measured, each system in turn [default: 5; with --quick 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// Pods of each burst [default: 2000,10000; with --quick 500].
    #[arg(long, value_delimiter = ',')]
    burst: Vec<usize>,
    /// Pods created per second, open loop [default: 20,50,100,200; with --quick 50,100].
    #[arg(long, value_delimiter = ',')]
    rates: Vec<u32>,
    /// How long each rate lasts, in seconds [default: 15; with --quick 5].
    #[arg(long)]
    rate_s: Option<u64>,
    /// Pods before and after `kill -9`, as OLD:NEW [default: 200:200,10000:2000; with --quick 200:200].
    #[arg(long, value_delimiter = ',')]
    restart: Vec<Restart>,
    /// How often the restart is measured.
    #[arg(long, default_value_t = 1)]
    restart_rounds: usize,
    /// Nodes in one process [default: 1000; with --quick 100].
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<usize>,
    /// How long pods come and go on those nodes, in seconds; a lease is due every 10 [default: 60; with --quick 20].
    #[arg(long)]
    churn_s: Option<u64>,
    /// Pods of the burst during which another tenant's single pods are timed [default: 10000; with --quick 500].
    #[arg(long, value_delimiter = ',')]
    tenant_burst: Vec<usize>,
    /// Pods with profile `acs`, at 5 per second for its delays and at once for its limit of calls; holdfast only
    /// [default: 200; with --quick 100].
    #[arg(long, value_delimiter = ',')]
    acs: Vec<usize>,
    /// The limit of calls to the simulated cloud.
    #[arg(long, default_value_t = 20)]
    calls_per_s: u32,
    /// How long the limit is measured while it is reached, in seconds.
    #[arg(long, default_value_t = 10)]
    throttle_s: u64,
    /// Requests of the load that are under way at once.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Leave the API server's priority and fairness on.
    #[arg(long)]
    fairness: bool,
    /// Where the JSON file goes.
    #[arg(long, default_value = "compare.json")]
    json: PathBuf,
}

/// A system that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// holdfast, profile `fast`.
    Holdfast,
    /// The same with the program of `--other`.
    Other,
    /// KWOK with the worker count that it comes with.
    #[value(name = "kwok-4")]
    Kwok4,
    /// KWOK with 64 workers each for pods, nodes and leases.
    #[value(name = "kwok-64")]
    Kwok64,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Other => "other",
            Self::Kwok4 => "kwok-4",
            Self::Kwok64 => "kwok-64",
        }
    }
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Many pods at once, then all of them deleted.
    Burst,
    /// Pods at a fixed rate.
    Latency,
    /// `kill -9` and a new process.
    Restart,
    /// Many nodes, and their leases while pods come and go.
    Nodes,
    /// One tenant's single pods during another's burst.
    Fairness,
    /// holdfast's profile `acs` against its configuration.
    Acs,
}

/// When a system is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) round: usize,
    pub(crate) rounds: usize,
    pub(crate) kind: Kind,
}

/// How many pods run when the process is killed, and how many come when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    pub(crate) old: usize,
    pub(crate) new: usize,
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once(':')
            .and_then(|(old, new)| Some((old.parse().ok()?, new.parse().ok()?)));
        match numbers {
            Some((old, new)) if old > 0 && new > 0 => Ok(Self { old, new }),
            _ => Err("it must be OLD:NEW, two numbers of pods, each at least 1".to_owned()),
        }
    }
}

/// The options with everything filled in.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) systems: Vec<Kind>,
    pub(crate) other: Option<PathBuf>,
    pub(crate) rounds: usize,
    pub(crate) bursts: Vec<usize>,
    pub(crate) rates: Vec<u32>,
    pub(crate) rate_for: Duration,
    pub(crate) restarts: Vec<Restart>,
    pub(crate) restart_rounds: usize,
    pub(crate) nodes: Vec<usize>,
    pub(crate) churn_for: Duration,
    pub(crate) tenant_bursts: Vec<usize>,
    pub(crate) acs: Vec<usize>,
    pub(crate) calls_per_s: u32,
    pub(crate) throttle_for: Duration,
    pub(crate) concurrency: usize,
    pub(crate) fairness: bool,
    pub(crate) json: PathBuf,
}

impl Options {
    /// # Errors
    /// Something that is asked for cannot be measured, or would not be.
    pub(crate) fn plan(self) -> Result<Plan> {
        let quick = self.quick;
        let restart = |old, new| Restart { old, new };
        let wanted = |what| self.only.is_empty() || self.only.contains(&what);
        let bursts = or(self.burst, quick, &[500], &[2000, 10_000]);
        let rates = or(self.rates, quick, &[50, 100], &[20, 50, 100, 200]);
        let restarts = or(
            self.restart,
            quick,
            &[restart(200, 200)],
            &[restart(200, 200), restart(10_000, 2000)],
        );
        let nodes = or(self.nodes, quick, &[100], &[1000]);
        let tenant_bursts = or(self.tenant_burst, quick, &[500], &[10_000]);
        let acs = or(self.acs, quick, &[100], &[200]);
        let mut usual = or(
            Vec::new(),
            quick,
            &[Kind::Holdfast, Kind::Kwok64],
            &[Kind::Holdfast, Kind::Kwok64, Kind::Kwok4],
        );
        usual.extend(self.other.is_some().then_some(Kind::Other));
        let plan = Plan {
            systems: or(self.systems, quick, &usual, &usual),
            other: self.other,
            rounds: self.rounds.unwrap_or(if quick { 1 } else { 5 }),
            bursts: if wanted(What::Burst) { bursts } else { vec![] },
            rates: if wanted(What::Latency) { rates } else { vec![] },
            rate_for: Duration::from_secs(self.rate_s.unwrap_or(if quick { 5 } else { 15 })),
            restarts: if wanted(What::Restart) {
                restarts
            } else {
                vec![]
            },
            restart_rounds: self.restart_rounds,
            nodes: if wanted(What::Nodes) { nodes } else { vec![] },
            churn_for: Duration::from_secs(self.churn_s.unwrap_or(if quick { 20 } else { 60 })),
            tenant_bursts: if wanted(What::Fairness) {
                tenant_bursts
            } else {
                vec![]
            },
            acs: if wanted(What::Acs) { acs } else { vec![] },
            calls_per_s: self.calls_per_s,
            throttle_for: Duration::from_secs(self.throttle_s),
            concurrency: self.concurrency,
            fairness: self.fairness,
            json: self.json,
        };
        plan.check()?;
        Ok(plan)
    }
}

/// Pods that there are at once when single ones come beside a burst: these are deleted without waiting until they are
/// gone.
pub(crate) fn pods_beside(burst: usize) -> usize {
    burst + burst / 4 + 100
}

/// What stands twice.
fn repeated<T: Copy + PartialEq>(all: &[T]) -> Option<T> {
    let is_repeated = |(index, one): &(usize, &T)| all[..*index].contains(one);
    all.iter()
        .enumerate()
        .find(is_repeated)
        .map(|(_, one)| *one)
}

fn or<T: Clone>(given: Vec<T>, quick: bool, small: &[T], whole: &[T]) -> Vec<T> {
    match (given.is_empty(), quick) {
        (false, _) => given,
        (true, true) => small.to_vec(),
        (true, false) => whole.to_vec(),
    }
}

impl Plan {
    /// Pods that exist at once, at most.
    pub(crate) fn pods_max(&self) -> usize {
        let at_rates = self.rates.iter().map(|rate| {
            usize::try_from(u64::from(*rate) * self.rate_for.as_secs()).unwrap_or(usize::MAX)
        });
        let at_restarts = self.restarts.iter().map(|it| it.old + it.new);
        let all = self
            .bursts
            .iter()
            .copied()
            .chain(at_rates)
            .chain(at_restarts)
            .chain(self.tenant_bursts.iter().map(|pods| pods_beside(*pods)))
            .chain(self.acs.iter().copied());
        all.max().unwrap_or(0)
    }

    fn check(&self) -> Result<()> {
        self.check_systems()?;
        self.check_sizes()?;
        ensure!(
            self.measures_something(),
            "nothing is left to measure: --only acs is about holdfast, which --systems leaves out"
        );
        let dir = self.json.parent().filter(|dir| !dir.as_os_str().is_empty());
        ensure!(
            dir.is_none_or(Path::is_dir) && !self.json.is_dir(),
            "--json {} cannot be written: it must be a file in a directory that exists",
            self.json.display()
        );
        Ok(())
    }

    fn check_systems(&self) -> Result<()> {
        if let Some(twice) = repeated(&self.systems) {
            bail!(
                "--systems has {} twice: one program beside itself is measured with --other",
                twice.name()
            );
        }
        match (&self.other, self.systems.contains(&Kind::Other)) {
            (None, true) => bail!("the system `other` needs its program: give --other PATH"),
            (Some(_), false) => bail!("--other is not measured: add other to --systems"),
            (Some(path), true) if !path.is_file() => {
                bail!("--other {}: there is no such program", path.display())
            }
            _ => Ok(()),
        }
    }

    /// Both would be told in one line of the table.
    fn check_repeated(&self) -> Result<()> {
        let text = |twice: Option<usize>| twice.map(|it| it.to_string());
        let of_rates = repeated(&self.rates).map(|rate| rate.to_string());
        let of_restarts = repeated(&self.restarts).map(|it| format!("{}:{}", it.old, it.new));
        for (option, twice) in [
            ("--burst", text(repeated(&self.bursts))),
            ("--rates", of_rates),
            ("--restart", of_restarts),
            ("--nodes", text(repeated(&self.nodes))),
            ("--tenant-burst", text(repeated(&self.tenant_bursts))),
            ("--acs", text(repeated(&self.acs))),
        ] {
            if let Some(twice) = twice {
                bail!(
                    "{option} has {twice} twice: what is to be measured again is a matter of --rounds"
                );
            }
        }
        Ok(())
    }

    fn measures_something(&self) -> bool {
        let others = [
            self.bursts.len(),
            self.rates.len(),
            self.restarts.len(),
            self.nodes.len(),
            self.tenant_bursts.len(),
        ];
        let acs = self.systems.contains(&Kind::Holdfast) && !self.acs.is_empty();
        acs || others.into_iter().any(|count| count > 0)
    }

    /// A, B, A, B.
    pub(crate) fn turns(&self, rounds: usize) -> impl Iterator<Item = Turn> {
        (1..=rounds).flat_map(move |round| {
            self.systems.iter().map(move |kind| Turn {
                round,
                rounds,
                kind: *kind,
            })
        })
    }

    fn check_sizes(&self) -> Result<()> {
        if self.rounds == 0 || self.restart_rounds == 0 {
            bail!("--rounds and --restart-rounds must be at least 1");
        }
        self.check_repeated()?;
        let zero = self.bursts.contains(&0) || self.rates.contains(&0) || self.rate_for.is_zero();
        if zero || self.concurrency == 0 {
            bail!("--burst, --rates, --rate-s and --concurrency must be at least 1");
        }
        let zero = self.tenant_bursts.contains(&0) || self.acs.contains(&0);
        let times = [self.churn_for, self.throttle_for];
        if zero || self.calls_per_s == 0 || times.iter().any(Duration::is_zero) {
            bail!(
                "--tenant-burst, --acs, --calls-per-s, --churn-s and --throttle-s must be at least 1"
            );
        }
        // The names of several nodes have a number behind the prefix by which their leases are found.
        if self
            .nodes
            .iter()
            .any(|nodes| !(2..=NODES_MAX).contains(nodes))
        {
            bail!("--nodes must be 2 to {NODES_MAX}, which is the most that holdfast takes");
        }
        let throttled_for = crate::acs::SETTLING + self.throttle_for;
        let enough = u64::from(self.calls_per_s) * throttled_for.as_secs() / CALLS_PER_POD + 1;
        if let Some(few) = self.acs.iter().find(|pods| (**pods as u64) < enough) {
            bail!(
                "--acs {few} is too few for a limit of {} calls/s to be reached for {} s: it takes {enough} pods",
                self.calls_per_s,
                throttled_for.as_secs()
            );
        }
        let max = crate::system::POOL_MAX;
        if self.pods_max() > max {
            bail!(
                "{} pods at once are more than the {max} addresses of the pool; choose smaller sizes",
                self.pods_max()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan> {
        Options::try_parse_from([&["compare"], args].concat())?.plan()
    }

    #[test]
    fn what_is_given_replaces_the_sizes_and_the_rest_stays() {
        let given = plan(&[
            "--quick",
            "--burst",
            "100,300",
            "--restart",
            "50:20",
            "--tenant-burst",
            "80",
        ])
        .unwrap();
        assert_eq!(given.bursts, [100, 300]);
        assert_eq!(given.restarts, [Restart { old: 50, new: 20 }]);
        assert_eq!(given.rates, [50, 100]);
        assert_eq!(given.rounds, 1);
        assert_eq!(given.pods_max(), 500, "100 pods/s for 5 s");
    }

    #[test]
    fn only_what_is_asked_for_is_measured() {
        let given = plan(&["--only", "latency"]).unwrap();
        assert!(given.bursts.is_empty() && given.restarts.is_empty());
        assert_eq!(given.rates, [20, 50, 100, 200]);
    }

    #[test]
    fn sizes_that_cannot_be_measured_are_refused() {
        for args in [
            ["--burst", "0"],
            ["--burst", "1000000"],
            ["--restart", "200"],
            ["--restart", "200:0"],
            ["--restart", "0:200"],
            ["--rates", "0"],
            ["--rates", "50,20,50"],
            ["--rounds", "0"],
            ["--restart-rounds", "0"],
            ["--nodes", "1"],
            ["--nodes", "10001"],
            ["--tenant-burst", "60000"],
            ["--tenant-burst", "52400"],
            ["--burst", "500,500"],
            ["--restart", "10:5,10:5"],
            ["--acs", "40"],
            ["--acs", "200,200"],
            ["--calls-per-s", "0"],
            ["--systems", "other"],
            ["--systems", "holdfast,holdfast"],
            ["--other", "/nowhere/holdfast"],
            ["--json", "/nowhere/compare.json"],
            ["--json", "/"],
        ] {
            assert!(plan(&args).is_err(), "{args:?}");
        }
        assert!(plan(&["--systems", "kwok-64", "--only", "acs"]).is_err());
        let program = std::env::current_exe().unwrap();
        let other = ["--other", program.to_str().unwrap()];
        assert!(plan(&[&other[..], &["--systems", "holdfast"]].concat()).is_err());
    }

    #[test]
    fn another_program_is_measured_last_unless_it_is_told_where() {
        let program = std::env::current_exe().unwrap();
        let other = ["--quick", "--other", program.to_str().unwrap()];
        let usual = plan(&other).unwrap().systems;
        assert_eq!(usual, [Kind::Holdfast, Kind::Kwok64, Kind::Other]);
        let told = [&other[..], &["--systems", "other,holdfast"]].concat();
        let told = plan(&told).unwrap().systems;
        assert_eq!(told, [Kind::Other, Kind::Holdfast]);
    }

    #[test]
    fn a_restart_has_as_many_rounds_as_it_is_given() {
        let given = plan(&["--quick", "--restart-rounds", "3"]).unwrap();
        assert_eq!((given.rounds, given.restart_rounds), (1, 3));
        let given = plan(&["--only", "burst", "--restart-rounds", "9"]).unwrap();
        assert_eq!((given.rounds, given.restarts.len()), (5, 0));
    }

    #[test]
    fn systems_take_turns() {
        let given = plan(&["--systems", "holdfast,kwok-64"]).unwrap();
        let turns = given.turns(2).map(|turn| (turn.round, turn.kind));
        let want = [
            (1, Kind::Holdfast),
            (1, Kind::Kwok64),
            (2, Kind::Holdfast),
            (2, Kind::Kwok64),
        ];
        assert!(turns.eq(want));
    }
}
