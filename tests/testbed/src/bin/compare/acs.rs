//! `profile: acs` against its own configuration: delays, and the limit of calls to the cloud.
//!
//! KWOK has nothing to compare with, so only holdfast is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, Config};

use crate::{
    load,
    options::Kind,
    requests::{counters, label},
    scenario::{Bench, Sample, Scene, millis, quantile},
    system::Profile,
};

/// Pods per second, few enough that none waits for another.
const RATE: u32 = 5;

/// `delays.creating` and `delays.running` of the profile. Its second for `cloud.attach` passes within the first.
const CONFIGURED: Duration = Duration::from_secs(4);

/// Before calls are counted at the limit. The first of them come together, before any was refused, and whether such a
/// heap falls within the time that is counted would be chance.
pub(crate) const SETTLING: Duration = Duration::from_secs(3);

impl Bench<'_> {
    /// Pods one after the other, without a limit of calls.
    pub(crate) async fn acs_delays(&mut self, pods: usize) -> Result<Sample> {
        let mut setup = self.setup(pods);
        setup.profile = Profile::Acs { calls_per_s: 0 };
        let scene = self.scene_of(Kind::Holdfast, &setup).await?;
        let names = load::names("acs", pods);
        let mut took = scene.load.create_at(&names, RATE, &self.progress).await?;
        took.sort_unstable();
        self.delete_all(&scene, &names).await?;
        scene.system.stop().await?;
        Ok(Sample::AcsDelays {
            pods,
            configured_ms: millis(CONFIGURED),
            p50_ms: millis(quantile(&took, 0.5)),
            p99_ms: millis(quantile(&took, 0.99)),
            p50_off_percent: off_percent(took_s(&took, 0.5), CONFIGURED.as_secs_f64()),
            p99_off_percent: off_percent(took_s(&took, 0.99), CONFIGURED.as_secs_f64()),
        })
    }

    /// Pods at once, more than the limit lets through while the calls are counted.
    pub(crate) async fn acs_throttle(&mut self, pods: usize) -> Result<Sample> {
        let calls_per_s = self.plan.calls_per_s;
        let mut setup = self.setup(pods);
        setup.profile = Profile::Acs { calls_per_s };
        let scene = self.scene_of(Kind::Holdfast, &setup).await?;
        let metrics = self.kubelet(&scene).await?;
        let names = load::names("throttle", pods);
        scene.load.create(&names).await?;
        tokio::time::sleep(SETTLING).await;
        let start = Calls::so_far(&metrics).await?;
        let began = Instant::now();
        tokio::time::sleep(self.plan.throttle_for).await;
        let end = Calls::so_far(&metrics).await?;
        let lasted = began.elapsed();
        ensure!(
            scene.load.counts().running < 1 + pods,
            "all {pods} pods ran within {lasted:?}, so nothing was saturated; choose more --acs pods or a smaller \
             --calls-per-s"
        );
        let measured = (end.passed - start.passed) as f64 / lasted.as_secs_f64();
        let refused = (end.throttled - start.throttled) as f64 / lasted.as_secs_f64();
        self.delete_all(&scene, &names).await?;
        scene.system.stop().await?;
        Ok(Sample::AcsThrottle {
            pods,
            lasted_s: lasted.as_secs_f64(),
            configured_per_s: calls_per_s,
            calls_per_s: measured,
            off_percent: off_percent(measured, f64::from(calls_per_s)),
            refused_per_s: refused,
        })
    }

    /// A client of the node's own server, whose metrics the configuration opens to everybody.
    async fn kubelet(&self, scene: &Scene) -> Result<Client> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = scene.system.nodes.first().context("it has no node")?;
        let node = nodes.get(name).await.context("cannot get the node")?;
        let port = node
            .status
            .and_then(|it| it.daemon_endpoints?.kubelet_endpoint)
            .context("the node names no port")?
            .port;
        let url = format!("https://127.0.0.1:{port}");
        let mut config = Config::new(url.parse().context("not a URL")?);
        // Of a certificate authority of its own, on loopback.
        config.accept_invalid_certs = true;
        Client::try_from(config).context("cannot make a client of the node's server")
    }
}

/// Answered calls to the simulated cloud.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Calls {
    passed: u64,
    throttled: u64,
}

impl Calls {
    async fn so_far(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new());
        let request = request.context("cannot ask for metrics")?;
        let text = client.request_text(request).await;
        Ok(Self::parse(
            &text.context("cannot read holdfast's metrics")?,
        ))
    }

    /// Every answer but the one that says so has passed the limit.
    fn parse(metrics: &str) -> Self {
        let mut calls = Self::default();
        for (labels, count) in counters(metrics, "holdfast_cloud_calls_total") {
            if label(labels, "outcome").is_some_and(|code| code.starts_with("Throttling")) {
                calls.throttled += count;
            } else {
                calls.passed += count;
            }
        }
        calls
    }
}

fn took_s(sorted: &[Duration], q: f64) -> f64 {
    quantile(sorted, q).as_secs_f64()
}

fn off_percent(measured: f64, configured: f64) -> f64 {
    (measured / configured - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttled_call_has_not_passed_the_limit() {
        let metrics = "holdfast_cloud_calls_total{action=\"AttachNetworkInterface\",outcome=\"ok\"} 40\n\
             holdfast_cloud_calls_total{action=\"AttachNetworkInterface\",outcome=\"Throttling.User\"} 7\n\
             holdfast_cloud_calls_total{action=\"DescribeNetworkInterfaces\",outcome=\"InvalidEniId.NotFound\"} 2\n\
             holdfast_pods{phase=\"Running\"} 3\n";
        let calls = Calls::parse(metrics);
        assert_eq!((calls.passed, calls.throttled), (42, 7));
    }
}
