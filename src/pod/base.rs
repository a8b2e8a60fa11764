//! A pod kept as it was seen, to be written back whole with another status.
//!
//! A PUT costs the API server less than a patch: it need not take the patch to the object and back. Owns what is kept,
//! and that a status put on it means what the same status means as a strategic merge patch of that version. Whether
//! there still is that version the API server decides, for `resourceVersion` is kept as well.

use super::protobuf::read::{Field, Fields, METADATA};
use super::protobuf::write::append_message;
use super::protobuf::{Error, envelope};
use super::status::Wanted;
use super::view::PodView;

/// Fields of `Pod`, of `ObjectMeta`, of `PodStatus` and of `PodCondition`, as a view has them too.
const ANNOTATIONS: u32 = 12;
const MANAGED_FIELDS: u32 = 17;
const STATUS: u32 = 3;
const CONDITIONS: u32 = 2;
const CONDITION_TYPE: u32 = 1;

/// See the module.
#[derive(Debug)]
pub struct Base(Box<[u8]>);

impl Base {
    /// `None` where only a patch will do: the pod was not read in protobuf, or has a part of a status already that a
    /// patch would replace and not add to.
    pub fn of(pod: &PodView) -> Option<Self> {
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
    /// What was kept is no pod.
    pub fn with(&self, wanted: &Wanted<'_>) -> Result<Vec<u8>, Error> {
        let is_ours = |condition: &Field<'_>| -> Result<bool, Error> {
            let mut kind: &[u8] = &[];
            for field in Fields::of("PodCondition", condition.bytes()?) {
                let field = field?;
                if field.number == CONDITION_TYPE {
                    kind = field.bytes()?;
                }
            }
            let mut ours = wanted.status.conditions.iter();
            Ok(ours.any(|one| one.kind.as_str().as_bytes() == kind))
        };
        let mut pod = Vec::with_capacity(2 * self.0.len());
        for field in Fields::of("Pod", &self.0) {
            let field = field?;
            match field.number {
                // An annotation that stands twice counts as it stands last.
                METADATA => join(
                    "ObjectMeta",
                    &field,
                    &wanted.metadata.encoded(),
                    &mut pod,
                    |field| Ok(field.number == ANNOTATIONS),
                )?,
                STATUS => join(
                    "PodStatus",
                    &field,
                    &wanted.status.encoded(),
                    &mut pod,
                    |field| Ok(field.number == CONDITIONS && !is_ours(field)?),
                )?,
                _ => pod.extend_from_slice(field.whole),
            }
        }
        Ok(envelope("v1", "Pod", &pod))
    }
}

/// Appends a message with the fields that are written in their places; `stays` has a say about a field that is written.
fn join(
    name: &'static str,
    seen: &Field<'_>,
    written: &[u8],
    to: &mut Vec<u8>,
    stays: impl Fn(&Field<'_>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let written = Fields::of(name, written).collect::<Result<Vec<_>, _>>()?;
    let mut all = Vec::with_capacity(2 * written.len());
    for field in Fields::of(name, seen.bytes()?) {
        let field = field?;
        let is_written = written.iter().any(|one| one.number == field.number);
        if !is_written || stays(&field)? {
            all.push(field);
        }
    }
    all.extend(written);
    all.sort_by_key(|field| field.number);
    append_message(seen.number, to, |to| {
        for field in &all {
            to.extend_from_slice(field.whole);
        }
    });
    Ok(())
}

/// Larger than the rest, and not taken from a request that writes a status (kubernetes/kubernetes,
/// staging/src/k8s.io/apimachinery/pkg/util/managedfields/internal/fieldmanager.go).
fn without_managed_fields(pod: &[u8]) -> Result<Box<[u8]>, Error> {
    let mut kept = Vec::with_capacity(pod.len());
    for field in Fields::of("Pod", pod) {
        let field = field?;
        if field.number != METADATA {
            kept.extend_from_slice(field.whole);
            continue;
        }
        let all = Fields::of("ObjectMeta", field.bytes()?).collect::<Result<Vec<_>, _>>()?;
        append_message(METADATA, &mut kept, |kept| {
            for field in all.iter().filter(|field| field.number != MANAGED_FIELDS) {
                kept.extend_from_slice(field.whole);
            }
        });
    }
    Ok(kept.into())
}

#[cfg(test)]
pub(in crate::pod) mod tests;
