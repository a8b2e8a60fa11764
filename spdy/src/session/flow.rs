//! Flow control: windows of both directions.
//!
//! `spdystream` keeps no windows: it never sends WINDOW_UPDATE, ignores those it gets, and leaves
//! back-pressure to TCP. Peers by the draft do keep them, for streams and (since 3.1) for the session. So:
//! - Sending: windows are counted from the start but hold only once the peer has sent WINDOW_UPDATE or a
//!   SETTINGS that names one. Before that they would stop a spdystream peer for ever at 64 KiB.
//! - Receiving: a peer that has gone beyond its window keeps none and gets no WINDOW_UPDATE. As long as that is
//!   open it gets them only when the window is used up, later when it is half used.
//! - Bytes that nobody reads stay in TCP: [`Session::receive`] takes no more than there is room for.

use super::{Event, Session, SessionError};
use crate::frame::{Frame, RstStatus, Setting, StreamId};
use crate::stream::{Half, WINDOW};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerWindows {
    Unknown,
    Kept,
    Ignored,
}

impl Session {
    pub(super) fn settings(&mut self, entries: &[Setting]) -> Result<(), SessionError> {
        for setting in entries {
            if setting.id != Setting::INITIAL_WINDOW_SIZE {
                continue;
            }
            let delta = i64::from(setting.value) - i64::from(self.initial_window);
            self.initial_window = setting.value;
            self.peer_windows = PeerWindows::Kept;
            for stream in self.streams.values_mut() {
                if !stream.send_window.grow(delta) {
                    return Err(SessionError::WindowOverflow);
                }
            }
        }
        self.events.push_back(Event::Writable(None));
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        id: Option<StreamId>,
        delta: u32,
    ) -> Result<(), SessionError> {
        self.peer_windows = PeerWindows::Kept;
        let Some(id) = id else {
            if !self.send_window.grow(i64::from(delta)) {
                return Err(SessionError::WindowOverflow);
            }
            self.events.push_back(Event::Writable(None));
            return Ok(());
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            let fits = stream.send_window.grow(i64::from(delta));
            self.events.push_back(Event::Writable(Some(id)));
            if !fits {
                stream.reset();
                self.events.push_back(Event::Readable(id));
                let status = RstStatus::FLOW_CONTROL_ERROR;
                self.answer(&Frame::RstStream { id, status });
            }
        }
        Ok(())
    }

    /// `len` bytes have left the buffers: of a stream that still counts them, or of none.
    pub(super) fn acknowledge(&mut self, id: Option<StreamId>, len: usize) {
        let threshold = match self.peer_windows {
            PeerWindows::Unknown => WINDOW,
            PeerWindows::Kept => WINDOW / 2,
            PeerWindows::Ignored => return,
        };
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.unacknowledged = self.unacknowledged.saturating_add(len);
        if self.unacknowledged >= threshold {
            let delta = std::mem::take(&mut self.unacknowledged);
            self.receive_window.grow(i64::from(delta));
            self.answer(&Frame::WindowUpdate { id: None, delta });
        }
        let Some((id, stream)) = id.and_then(|id| Some((id, self.streams.get_mut(&id)?))) else {
            return;
        };
        stream.unacknowledged = stream.unacknowledged.saturating_add(len);
        if stream.unacknowledged >= threshold && stream.remote == Half::Open {
            let delta = std::mem::take(&mut stream.unacknowledged);
            stream.receive_window.grow(i64::from(delta));
            let id = Some(id);
            self.answer(&Frame::WindowUpdate { id, delta });
        }
    }
}
