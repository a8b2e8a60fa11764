//! The API server's own count of requests, from its metrics.

use anyhow::{Context, Result};
use kube::Client;

/// Requests that change pods, and events, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writes {
    /// To pods and their subresources, and done.
    pub(crate) pods: u64,
    /// The same, and refused: nothing was stored, but it was asked for.
    pub(crate) refused: u64,
    /// To events.
    pub(crate) events: u64,
}

impl Writes {
    /// Asks the API server.
    ///
    /// # Errors
    /// It does not answer, or does not let us read its metrics.
    pub(crate) async fn so_far(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics")
            .body(Vec::new())
            .context("cannot ask for metrics")?;
        let text = client
            .request_text(request)
            .await
            .context("cannot read the API server's metrics")?;
        Ok(Self::parse(&text))
    }

    fn parse(metrics: &str) -> Self {
        let mut writes = Self::default();
        for (labels, count) in counters(metrics, "apiserver_request_total") {
            let label = |name| label(labels, name);
            let verb = matches!(
                label("verb"),
                Some("POST" | "PUT" | "PATCH" | "APPLY" | "DELETE" | "DELETECOLLECTION")
            );
            // With `dry_run="All"` nothing is stored: that is how holdfast asks whether its webhook answers.
            let changes = verb && label("dry_run").is_none_or(str::is_empty);
            let is_done = label("code").is_some_and(|code| code.starts_with('2'));
            match label("resource") {
                Some("pods") if changes && is_done => writes.pods += count,
                Some("pods") if changes => writes.refused += count,
                Some("events") if changes && is_done => writes.events += count,
                _ => {}
            }
        }
        writes
    }

    /// What came after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            pods: self.pods - earlier.pods,
            refused: self.refused - earlier.refused,
            events: self.events - earlier.events,
        }
    }
}

/// The samples of a counter: labels as they stand, and the number, which is a whole one although Prometheus counts in
/// floating point.
pub(crate) fn counters<'m>(
    metrics: &'m str,
    name: &'m str,
) -> impl Iterator<Item = (&'m str, u64)> {
    metrics.lines().filter_map(move |line| {
        let (labels, count) = line
            .strip_prefix(name)?
            .strip_prefix('{')?
            .rsplit_once("} ")?;
        let count: f64 = count.trim().parse().expect("a sample is a number");
        Some((labels, count.round() as u64))
    })
}

/// The value of a label.
pub(crate) fn label<'m>(labels: &'m str, name: &str) -> Option<&'m str> {
    labels.split("\",").find_map(|pair| {
        pair.trim_end_matches('"')
            .strip_prefix(name)?
            .strip_prefix("=\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_that_change_pods_or_events_count() {
        let metrics = r#"
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="status",verb="PATCH",version="v1"} 2000
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="POST",version="v1"} 1.5e+03
apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="DELETE",version="v1"} 30
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="status",verb="PUT",version="v1"} 5
apiserver_request_total{code="500",component="apiserver",dry_run="All",group="",resource="pods",scope="resource",subresource="",verb="POST",version="v1"} 2
apiserver_request_total{code="0",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 7
apiserver_request_total{code="201",component="apiserver",dry_run="",group="events.k8s.io",resource="events",scope="resource",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 40
apiserver_request_duration_seconds_count{resource="pods",verb="PATCH"} 2000
"#;
        let writes = Writes::parse(metrics);
        assert_eq!(
            writes,
            Writes {
                pods: 3500,
                refused: 35,
                events: 3
            }
        );
    }
}
