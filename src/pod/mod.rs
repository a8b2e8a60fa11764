//! Pods on our nodes: from the watch to the status that people see.
//!
//! ```text
//!   watch ─▶ view ─▶ record ─▶ core::step ─▶ status ─▶ PUT, PATCH, DELETE
//!                       │          ▲
//!                       ▼          │ network
//!                  agent ⇄ provider engine ⇄ ledger, cloud
//! ```
//!
//! `list_watch` and `protobuf` bring what `view` decodes, `record` remembers, `core` decides, with `life` and `stop` for
//! what containers do, `needs` for what they cannot start without and `behaviour` for what annotations ask; `draft` and
//! `status` write it down, `base` puts it on the pod that was seen, `agent` keeps all pods and talks to the engine,
//! `run` does the I/O, and `desk` makes its requests; `running` tells others what runs.
//! Everything but `run`, `desk`, `list_watch`, `api`, `answer`, `events` and `census` is synchronous and pure. Addresses
//! are not decided here.

pub mod agent;
mod answer;
mod api;
mod back_off;
pub mod base;
pub mod behaviour;
pub mod census;
pub mod core;
mod desk;
mod draft;
mod events;
mod life;
mod list_watch;
pub mod needs;
mod observed;
pub mod protobuf;
pub(crate) mod quantity;
pub mod record;
pub mod run;
pub mod running;
pub mod status;
mod stop;
#[cfg(test)]
mod testing;
pub mod view;

pub(crate) use self::api::is_object_name;
pub(crate) use self::observed::Ended;
pub(crate) use self::stop::Stop;
