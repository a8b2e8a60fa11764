//! A pod kept as it was seen, to be written back whole with another status.
//!
//! A PUT costs the API server less than a patch: it need not take the patch to the object and back. Owns what is kept,
//! and that a status put on it means what the same status means as a strategic merge patch of that version. Whether
//! there still is that version the API server decides, for `resourceVersion` is kept as well.

use super::protobuf::encode::{append_bytes, encode};
use super::protobuf::schema::POD;
use super::protobuf::{Error, envelope, raw_fields};
use super::status::Wanted;
use super::view::PodView;

/// Fields of `Pod`, of `ObjectMeta`, of `PodStatus` and of `PodCondition`, as in [`schema`](super::protobuf::schema).
const METADATA: u32 = 1;
const ANNOTATIONS: u32 = 12;
const MANAGED_FIELDS: u32 = 17;
const STATUS: u32 = 3;
const CONDITIONS: u32 = 2;
const CONDITION_TYPE: u32 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Base(Box<[u8]>);

impl Base {
    /// `None` where only a patch will do: the pod was not read in protobuf, or has a part of a status already that a
    /// patch would replace and not add to.
    pub(super) fn of(pod: &PodView) -> Option<Self> {
        let status = &pod.status;
        let is_blank = status.pod_ips.is_empty()
            && status.host_ips.is_empty()
            && status.container_statuses.is_empty()
            && status.init_container_statuses.is_empty()
            && status.ephemeral_container_statuses.is_empty();
        if pod.encoded.is_empty() || !is_blank {
            return None;
        }
        without_managed_fields(&pod.encoded).ok().map(Self)
    }

    /// The body of a PUT.
    ///
    /// # Errors
    /// What was kept is no pod, or the status has a field that has no number.
    pub(super) fn with(&self, wanted: &Wanted<'_>) -> Result<Vec<u8>, Error> {
        let written = serde_json::to_value(wanted).expect("a status is plain data");
        let written = encode(&written, POD)?;
        let written = raw_fields(&written)?;
        let part = |number: u32| {
            let found = written.iter().find(|field| field.number == number);
            found.map_or(&[][..], |field| field.bytes)
        };
        let is_ours = |condition: &[u8]| -> Result<bool, Error> {
            let kind = raw_fields(condition)?
                .into_iter()
                .find(|field| field.number == CONDITION_TYPE)
                .map_or(&[][..], |field| field.bytes);
            let mut ours = wanted.status.conditions.iter();
            Ok(ours.any(|one| one.kind.as_str().as_bytes() == kind))
        };
        let mut pod = Vec::with_capacity(2 * self.0.len());
        for field in raw_fields(&self.0)? {
            let joined = match field.number {
                // An annotation that stands twice counts as it stands last.
                METADATA => joined(field.bytes, part(METADATA), |number, _| {
                    Ok(number == ANNOTATIONS)
                })?,
                STATUS => joined(field.bytes, part(STATUS), |number, bytes| {
                    Ok(number == CONDITIONS && !is_ours(bytes)?)
                })?,
                _ => {
                    pod.extend_from_slice(field.whole);
                    continue;
                }
            };
            append_bytes(field.number, &joined, &mut pod);
        }
        Ok(envelope("v1", "Pod", &pod))
    }
}

/// The fields of a message with those that are written in their places; `stays` has a say about a field that is written.
fn joined(
    seen: &[u8],
    written: &[u8],
    stays: impl Fn(u32, &[u8]) -> Result<bool, Error>,
) -> Result<Vec<u8>, Error> {
    let written = raw_fields(written)?;
    let mut all = Vec::new();
    for field in raw_fields(seen)? {
        let is_written = written.iter().any(|one| one.number == field.number);
        if !is_written || stays(field.number, field.bytes)? {
            all.push(field);
        }
    }
    all.extend(written);
    all.sort_by_key(|field| field.number);
    let all: Vec<_> = all.iter().map(|field| field.whole).collect();
    Ok(all.concat())
}

/// Larger than the rest, and not taken from a request that writes a status (kubernetes/kubernetes,
/// staging/src/k8s.io/apimachinery/pkg/util/managedfields/internal/fieldmanager.go).
fn without_managed_fields(pod: &[u8]) -> Result<Box<[u8]>, Error> {
    let mut kept = Vec::with_capacity(pod.len());
    for field in raw_fields(pod)? {
        if field.number != METADATA {
            kept.extend_from_slice(field.whole);
            continue;
        }
        let all = raw_fields(field.bytes)?.into_iter();
        let lean = all.filter(|field| field.number != MANAGED_FIELDS);
        let lean: Vec<_> = lean.map(|field| field.whole).collect();
        append_bytes(METADATA, &lean.concat(), &mut kept);
    }
    Ok(kept.into())
}

#[cfg(test)]
pub(in crate::pod) mod tests;
