//! Sessions against bytes of a real peer, against each other, and against bytes that no peer would send.

mod frames;
mod hostile;
mod sessions;
mod spdystream;

use std::time::Instant;

use crate::{Event, Headers, Limits, Read, Role, Session, StreamId};

fn id(id: u32) -> StreamId {
    StreamId::new(id).unwrap()
}

fn session(role: Role) -> Session {
    Session::new(role, Limits::default(), Instant::now())
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.event()).collect()
}

/// Everything that can be read of a stream now, and how it goes on.
fn read(session: &mut Session, stream: StreamId) -> (Vec<u8>, Read) {
    let mut all = Vec::new();
    let mut piece = [0; 1000];
    loop {
        match session.read(stream, &mut piece) {
            Read::Data(len) => all.extend_from_slice(&piece[..len]),
            other => return (all, other),
        }
    }
}

fn take_output(session: &mut Session) -> Vec<u8> {
    let output = session.output().to_vec();
    session.sent(output.len(), Instant::now());
    output
}

/// Carries bytes both ways until neither has any; says what each did, in turn.
fn exchange(client: &mut Session, server: &mut Session) -> (Vec<Event>, Vec<Event>) {
    let (mut of_client, mut of_server) = (Vec::new(), Vec::new());
    loop {
        let up = take_output(client);
        let down = take_output(server);
        if up.is_empty() && down.is_empty() {
            return (of_client, of_server);
        }
        of_server.extend(deliver(server, &up));
        of_client.extend(deliver(client, &down));
    }
}

fn deliver(to: &mut Session, mut bytes: &[u8]) -> Vec<Event> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let taken = to.receive(bytes, Instant::now()).unwrap();
        let new = events(to);
        assert!(taken > 0 || !new.is_empty(), "the session is stuck");
        seen.extend(new);
        bytes = &bytes[taken..];
    }
    seen.extend(events(to));
    seen
}

fn kind(kind: &str) -> Headers {
    Headers::new([("streamType", kind)])
}
