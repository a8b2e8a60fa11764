//! The explanation for people: the facts, a line for each node, and each verdict as a sentence.

use holdfast_provider::id::VSwitchId;
use holdfast_provider::ledger::explain::{Answer, Kind, Outlook};
use holdfast_provider::policy::pool::Remaining;

use super::{Report, Source};
use crate::cli::output::{columns, or_none};

pub(super) fn text(report: &Report) -> String {
    let outlooks = &report.explanation.outlooks;
    let mut text = columns(&["FACT", "VALUE"], &facts(report));
    if outlooks.is_empty() {
        text += "\nIts node is a virtual node of another provider: holdfast gives it nothing, and its claim stays as it is.\n";
        return text;
    }
    text.push('\n');
    let rows: Vec<_> = outlooks.iter().map(row).collect();
    text += &columns(
        &[
            "NODE",
            "TYPE",
            "ZONE",
            "ALLOWED (FREE)",
            "VERDICT",
            "ADDRESS",
            "CLAIM ENDS",
        ],
        &rows,
    );
    text.push('\n');
    text.extend(outlooks.iter().flat_map(sentences));
    text
}

/// What happens at one node, now and to the next pod.
fn sentences(outlook: &Outlook) -> Vec<String> {
    let node = &outlook.node;
    let now = format!("{node}: {}\n", sentence(&outlook.answer));
    let next = outlook.next.as_ref().map(|next| {
        format!(
            "{node}: the next pod of this name, once the holder is gone and detached: {}\n",
            sentence(next)
        )
    });
    std::iter::once(now).chain(next).collect()
}

fn facts(report: &Report) -> Vec<Vec<String>> {
    let pod = &report.pod;
    let mut facts = vec![
        ["pod", &report.key.to_string()].map(str::to_owned),
        ["facts of the pod from", source(report.source)].map(str::to_owned),
    ];
    let mut fact = |name: &str, value: String| facts.push([name.to_owned(), value]);
    if report.source != Source::Assumed {
        fact("uid", or_none(pod.uid.as_ref()));
        let created = pod.created_at.map(|at| format!("{at:.0}"));
        fact("created", created.unwrap_or_else(|| "not yet".to_owned()));
        fact("bound to", or_none(pod.bound_to.as_ref()));
    }
    if pod.host_network {
        fact("host network", "yes".to_owned());
    }
    fact(
        "fixed IP",
        match pod.hours {
            Some(hours) => format!("{}, kept {hours} h after the deletion", pod.fixed_ip),
            None => pod.fixed_ip.to_owned(),
        },
    );
    if matches!(report.source, Source::Cluster | Source::Manifest) {
        fact("compute class", or_none(pod.class.as_ref()));
    }
    let named: Vec<_> = pod.vswitch_ids.iter().map(VSwitchId::as_str).collect();
    fact(
        "vSwitches it names",
        or_none((!named.is_empty()).then(|| named.join(", "))),
    );
    for warning in &pod.warnings {
        fact("warning", warning.clone());
    }
    let explanation = &report.explanation;
    match &explanation.claim {
        None => fact("claim", "<none>".to_owned()),
        Some(claim) => {
            let state = claim.state.as_str();
            let place = format!("on {} in zone {}", claim.vswitch, claim.zone);
            fact("claim", format!("{} {place}, {state}", claim.address));
            fact("ENI", or_none(claim.eni.as_ref()));
            fact("holder", or_none(claim.holder.as_ref()));
            let deadline = claim.expires_at.map(|at| {
                let left = Remaining(at.duration_since(explanation.now));
                format!("{at:.0}, {left} left")
            });
            fact("deadline", or_none(deadline));
        }
    }
    let last = explanation.last.as_ref();
    let last = last.map(|last| format!("{} ({})", last.node, last.node_type));
    fact("last node of the name", or_none(last));
    facts.into_iter().map(Vec::from).collect()
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Cluster => "the cluster",
        Source::Ledger => "the ledger, as it accepted the pod; --kubeconfig asks the cluster",
        Source::Manifest => "the manifest",
        Source::Assumed => "nowhere, there is no such pod: assumed is one that asks for a fixed IP",
    }
}

fn row(outlook: &Outlook) -> Vec<String> {
    let allowed: Vec<_> = outlook
        .vswitches
        .iter()
        .filter(|fact| fact.allowed)
        .map(|fact| format!("{} ({})", fact.id, fact.counts.free))
        .collect();
    vec![
        outlook.node.clone(),
        outlook.node_type.as_str().to_owned(),
        outlook.zone.to_string(),
        or_none((!allowed.is_empty()).then(|| allowed.join(", "))),
        word(outlook.answer.verdict).to_owned(),
        or_none(outlook.answer.address),
        or_none(outlook.answer.closes),
    ]
}

fn word(verdict: Kind) -> &'static str {
    match verdict {
        Kind::Has => "has",
        Kind::Leaving => "leaving",
        Kind::Ended => "ended",
        Kind::Keep => "keep",
        Kind::Wait => "wait",
        Kind::New => "new",
        Kind::Ordinary => "ordinary",
        Kind::Refused => "refused",
        Kind::HostNetwork => "host network",
        Kind::Elsewhere => "elsewhere",
    }
}

fn sentence(answer: &Answer) -> String {
    let address = or_none(answer.address);
    let eni = or_none(answer.eni.as_ref());
    let what = match answer.verdict {
        Kind::Has => format!("has {address} ({eni}), and nothing more is decided"),
        Kind::Leaving => "is being deleted and is given nothing more".to_owned(),
        Kind::Ended => "has ended, and is given nothing more".to_owned(),
        Kind::Keep => format!("gets {address} ({eni}) back, with the same MAC"),
        Kind::Wait => "gets no address yet".to_owned(),
        Kind::New => format!("gets the new address {address}, and claims it"),
        Kind::Ordinary => format!("gets the ordinary address {address}"),
        Kind::Refused => "stays Pending".to_owned(),
        Kind::HostNetwork => "shows the address of its node, and has no ENI".to_owned(),
        Kind::Elsewhere => "gets nothing from holdfast, whose node this is not".to_owned(),
    };
    let closes = answer.closes.map(|why| format!("; the claim ends ({why})"));
    let event = answer.reason.map(|reason| match &answer.note {
        Some(note) => format!(". {reason}: {note}"),
        None => format!(". {reason}"),
    });
    [what, closes.unwrap_or_default(), event.unwrap_or_default()].concat()
}
