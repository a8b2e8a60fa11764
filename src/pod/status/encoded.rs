//! How a wanted status is written in protobuf, by the numbers of Kubernetes 1.36, `k8s.io/api/core/v1/generated.proto`.
//!
//! Owns no choice of fields: what the patch has in JSON has its number here. Every type is taken apart whole, so that the
//! compiler asks for the number of a new field.

use std::net::IpAddr;

use super::{
    Annotations, Body, Condition, IpList, Metadata, Resources, SYSTEM_ANNOTATIONS, StateBody,
    Status,
};
use crate::pod::protobuf::write::{
    append_bytes, append_entry, append_message, append_number, append_quantities, append_some_text,
    append_text, append_time,
};

impl Metadata<'_> {
    /// The fields of `ObjectMeta` that it has.
    pub(in crate::pod) fn encoded(&self) -> Vec<u8> {
        let Self {
            uid,
            annotations: Annotations(values),
        } = self;
        let mut all = Vec::with_capacity(512);
        append_bytes(5, uid.as_str().as_bytes(), &mut all);
        for (key, value) in SYSTEM_ANNOTATIONS.iter().zip(values) {
            if let Some(value) = value {
                append_entry(12, key, value, &mut all);
            }
        }
        all
    }
}

impl Status<'_> {
    /// The fields of `PodStatus` that it has.
    pub(in crate::pod) fn encoded(&self) -> Vec<u8> {
        let Self {
            observed_generation,
            phase,
            reason,
            message,
            host_ip,
            host_ips,
            pod_ip,
            pod_ips,
            start_time,
            conditions,
            init_container_statuses,
            container_statuses,
            ephemeral_container_statuses,
        } = self;
        let mut all = Vec::with_capacity(1024);
        let to = &mut all;
        append_text(1, phase, to);
        for condition in conditions {
            append_message(2, to, |to| condition.append(to));
        }
        append_some_text(3, *message, to);
        append_some_text(4, *reason, to);
        append_address(5, 16, *host_ip, host_ips.as_ref(), to);
        append_address(6, 12, *pod_ip, pod_ips.as_ref(), to);
        if let Some(time) = start_time {
            append_time(7, *time, to);
        }
        for (number, list) in [
            (8, container_statuses),
            (10, init_container_statuses),
            (13, ephemeral_container_statuses),
        ] {
            for status in list {
                append_message(number, to, |to| status.body().append(to));
            }
        }
        if let Some(generation) = observed_generation {
            append_number(17, generation.get(), to);
        }
        all
    }
}

impl Condition<'_> {
    fn append(&self, to: &mut Vec<u8>) {
        let Self {
            kind,
            status,
            reason,
            message,
            last_transition_time,
            observed_generation,
        } = self;
        append_bytes(1, kind.as_str().as_bytes(), to);
        append_text(2, status, to);
        append_time(4, *last_transition_time, to);
        append_bytes(5, reason.as_bytes(), to);
        append_bytes(6, message.as_bytes(), to);
        if let Some(generation) = observed_generation {
            append_number(7, generation.get(), to);
        }
    }
}

impl Body<'_> {
    fn append(&self, to: &mut Vec<u8>) {
        let Self {
            name,
            state,
            last_state,
            ready,
            started,
            restart_count,
            image,
            image_id,
            container_id,
            resources,
            allocated_resources,
        } = self;
        append_bytes(1, name.as_bytes(), to);
        append_message(2, to, |to| state.append(to));
        if let Some(last) = last_state {
            append_message(3, to, |to| last.append(to));
        }
        append_number(4, *ready, to);
        append_number(5, *restart_count, to);
        append_bytes(6, image.as_bytes(), to);
        append_bytes(7, image_id.as_bytes(), to);
        if let Some(id) = container_id {
            append_text(8, id, to);
        }
        append_number(9, *started, to);
        if let Some(allocated) = allocated_resources {
            append_quantities(10, allocated, to);
        }
        if let Some(Resources { requests, limits }) = resources {
            append_message(11, to, |to| {
                append_quantities(1, limits, to);
                append_quantities(2, requests, to);
            });
        }
    }
}

impl StateBody<'_> {
    fn append(&self, to: &mut Vec<u8>) {
        match self {
            Self::Waiting { reason, message } => append_message(1, to, |to| {
                append_text(1, reason, to);
                append_some_text(2, *message, to);
            }),
            Self::Running { started_at } => append_message(2, to, |to| {
                append_time(1, *started_at, to);
            }),
            Self::Terminated {
                exit_code,
                reason,
                message,
                started_at,
                finished_at,
                container_id,
            } => append_message(3, to, |to| {
                append_number(1, *exit_code, to);
                append_text(3, reason, to);
                append_some_text(4, *message, to);
                if let Some(time) = started_at {
                    append_time(5, *time, to);
                }
                append_time(6, *finished_at, to);
                if let Some(id) = container_id {
                    append_text(7, id, to);
                }
            }),
        }
    }
}

/// An address, and the list that has it.
fn append_address(
    number: u32,
    of_list: u32,
    address: Option<IpAddr>,
    list: Option<&IpList>,
    to: &mut Vec<u8>,
) {
    if let Some(address) = address {
        append_text(number, address, to);
    }
    if let Some(list) = list {
        append_message(of_list, to, |to| append_text(1, list.ip, to));
    }
}
