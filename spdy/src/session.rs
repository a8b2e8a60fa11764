//! A session: streams opened, accepted, ended and reset, time-outs and room.
//!
//! How much may be sent and when more is asked for is in `flow`; what a peer may cost in [`Limits`].

mod error;
mod flow;
mod limits;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Buf, BytesMut};

pub use self::error::{OpenError, SessionError};
use self::flow::PeerWindows;
pub use self::limits::Limits;
use crate::decode::{Decoder, Item, Step};
use crate::frame::{EncodeError, Encoder, Frame, GoAwayStatus, RstStatus, StreamId, data_head};
use crate::headers::Headers;
use crate::stream::{Half, Read, Stream, WINDOW, Window, WriteError};

/// Which end of the session this is; it decides who opens streams with odd numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens odd streams.
    Client,
    /// Opens even streams.
    Server,
}

/// What the peer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It opened a stream, which waits for [`Session::accept`] or [`Session::reset`].
    Opened {
        /// The stream.
        id: StreamId,
        /// Its headers.
        headers: Headers,
    },
    /// It accepted a stream opened here.
    Accepted(StreamId),
    /// A stream has something to read after it had nothing, or its end.
    Readable(StreamId),
    /// A stream, or with None each of them, may be able to send again.
    Writable(Option<StreamId>),
    /// It wants no new streams and goes when those that are open have ended.
    GoAway(GoAwayStatus),
}

/// Longest data frame that is sent.
const DATA_FRAME_LEN: usize = 32 * 1024;
/// Answers that wait to be sent; beyond them nothing more is received.
const CONTROL_LEN: usize = 16 * 1024;
/// Events that wait to be taken; beyond them nothing more is received.
const EVENTS: usize = 32;

/// One end of a session.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    decoder: Decoder,
    encoder: Encoder,
    streams: BTreeMap<StreamId, Stream>,
    events: VecDeque<Event>,
    output: BytesMut,
    /// Bytes of `output` that answer the peer.
    answers_len: usize,
    unread_len: usize,
    last_peer_id: u32,
    next_id: u32,
    peer_windows: PeerWindows,
    initial_window: u32,
    send_window: Window,
    receive_window: Window,
    /// Read since the last WINDOW_UPDATE of the session.
    unacknowledged: u32,
    active_at: Instant,
    /// No frame is sent or looked at any more.
    over: bool,
}

impl Session {
    /// A session that begins at `now`.
    pub fn new(role: Role, limits: Limits, now: Instant) -> Self {
        Self {
            decoder: Decoder::new(&limits),
            limits,
            encoder: Encoder::default(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            output: BytesMut::new(),
            answers_len: 0,
            unread_len: 0,
            last_peer_id: 0,
            next_id: match role {
                Role::Client => 1,
                Role::Server => 2,
            },
            peer_windows: PeerWindows::Unknown,
            initial_window: WINDOW,
            send_window: Window::new(WINDOW),
            receive_window: Window::new(WINDOW),
            unacknowledged: 0,
            active_at: now,
            over: false,
        }
    }

    /// Takes bytes from the peer and says how many. It takes none while events wait to be taken, streams to be
    /// read or output to be sent. After an error the session is over: send what is in the output and close.
    pub fn receive(&mut self, input: &[u8], now: Instant) -> Result<usize, SessionError> {
        let mut taken = 0;
        while !self.over && self.events.len() < EVENTS && self.answers_len < CONTROL_LEN {
            let (streams, limits) = (&self.streams, &self.limits);
            let left = limits.session_buffer_len.saturating_sub(self.unread_len);
            let room = |id| match streams.get(&id) {
                Some(stream) if stream.remote == Half::Open && !stream.ignored => {
                    let len = stream.received.len();
                    limits.stream_buffer_len.saturating_sub(len).min(left)
                }
                // Dropped below.
                _ => usize::MAX,
            };
            let step = self.decoder.step(&input[taken..], room);
            let Step { consumed, item } = step.map_err(|error| self.fail(error.into()))?;
            taken += consumed;
            let Some(item) = item else {
                break;
            };
            self.active_at = now;
            match item {
                Item::Control(frame) => self.control(frame).map_err(|error| self.fail(error))?,
                Item::Data { id, bytes, fin } => self.data(id, bytes, fin),
            }
        }
        Ok(if self.over { input.len() } else { taken })
    }

    /// The peer sends no more: what is open breaks off.
    pub fn end_of_input(&mut self) {
        for (id, stream) in &mut self.streams {
            if stream.remote == Half::Open {
                stream.remote = Half::Reset;
                self.events.push_back(Event::Readable(*id));
            }
        }
    }

    /// The next thing that the peer did.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes for the peer.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// So many bytes of [`Session::output`] are sent.
    pub fn sent(&mut self, len: usize, now: Instant) {
        let full = self.output.len() >= self.limits.output_len;
        self.output.advance(len);
        self.active_at = now;
        if self.output.is_empty() {
            self.answers_len = 0;
            self.output = BytesMut::new();
        }
        if full && self.output.len() < self.limits.output_len {
            self.events.push_back(Event::Writable(None));
        }
    }

    /// When [`Session::expire`] is to be called.
    pub fn deadline(&self) -> Instant {
        self.active_at + self.limits.idle_timeout
    }

    /// Ends a session that has been idle for too long.
    pub fn expire(&mut self, now: Instant) -> Result<(), SessionError> {
        if now < self.deadline() || self.over {
            return Ok(());
        }
        Err(self.fail(SessionError::Idle(self.limits.idle_timeout)))
    }

    /// Opens a stream. The peer's answer is [`Event::Accepted`] or a reset; until then nothing can be sent on it.
    pub fn open(&mut self, headers: Headers) -> Result<StreamId, OpenError> {
        let id = StreamId::new(self.next_id).filter(|_| !self.over);
        let id = id.ok_or(OpenError::Over)?;
        self.put(&Frame::SynStream {
            id,
            associated: None,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers,
        })?;
        self.next_id += 2;
        let window = Window::new(self.initial_window);
        let stream = Stream::new(Half::Open, Half::Open, window);
        self.streams.insert(id, stream);
        Ok(id)
    }

    /// Accepts a stream that the peer has opened.
    pub fn accept(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut stream.accepted, true) && stream.local == Half::Open {
            self.answer(&Frame::SynReply {
                id,
                fin: false,
                headers: Headers::default(),
            });
        }
    }

    /// Reads what has come on a stream.
    pub fn read(&mut self, id: StreamId, out: &mut [u8]) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Read::Reset;
        };
        let read = stream.read(out);
        if let Read::Data(len) = read {
            self.unread_len -= len;
            self.acknowledge(Some(id), len);
        }
        read
    }

    /// Sends the beginning of `bytes` and says how much; none when there is no room now, and then
    /// [`Event::Writable`] or [`Event::Accepted`] tells when there is.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, WriteError> {
        let stream = self.streams.get_mut(&id).ok_or(WriteError::Reset)?;
        match stream.local {
            Half::Open => {}
            Half::Ended => return Err(WriteError::Ended),
            Half::Reset => return Err(WriteError::Reset),
        }
        let mut room = self.limits.output_len.saturating_sub(self.output.len());
        if self.peer_windows == PeerWindows::Kept {
            let window = stream.send_window.room().min(self.send_window.room());
            room = room.min(window);
        }
        let len = bytes.len().min(DATA_FRAME_LEN).min(room);
        if len == 0 || !stream.accepted {
            return Ok(0);
        }
        stream.send_window.spend(len);
        self.send_window.spend(len);
        self.put_data(id, false, &bytes[..len]);
        Ok(len)
    }

    /// Ends this side of a stream.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.local == Half::Open {
            stream.local = Half::Ended;
            self.put_data(id, true, &[]);
            self.forget_if_done(id);
        }
    }

    /// Reads no more of a stream: what is there and what still comes is dropped. A stream that is ignored and
    /// has ended both ways is forgotten; until then it counts, and [`Session::finish`] still ends this side.
    pub fn ignore(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.ignored = true;
        let len = std::mem::take(&mut stream.received).len();
        self.unread_len -= len;
        self.acknowledge(Some(id), len);
        self.forget_if_done(id);
    }

    /// Gives up a stream: what was received and not read is dropped, and a stream that has not ended both ways
    /// is reset. What was sent before still arrives.
    pub fn release(&mut self, id: StreamId) {
        self.reset(id, RstStatus::CANCEL);
    }

    /// As [`Session::release`], with a reason; before [`Session::accept`] it refuses the stream.
    pub fn reset(&mut self, id: StreamId, status: RstStatus) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        let len = stream.received.len();
        self.unread_len -= len;
        self.acknowledge(None, len);
        let given_up = stream.remote == Half::Reset || stream.local == Half::Reset;
        let ended = stream.remote == Half::Ended && stream.local == Half::Ended;
        if !given_up && !ended {
            self.answer(&Frame::RstStream { id, status });
        }
    }

    /// Tells the peer that this side takes no new streams.
    pub fn go_away(&mut self) {
        let last_good = self.last_peer_id;
        self.answer(&Frame::GoAway {
            last_good,
            status: GoAwayStatus::OK,
        });
    }

    /// Streams that have not been released.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    fn fail(&mut self, error: SessionError) -> SessionError {
        let status = match error {
            SessionError::Idle(_) => GoAwayStatus::OK,
            _ => GoAwayStatus::PROTOCOL_ERROR,
        };
        let last_good = self.last_peer_id;
        self.answer(&Frame::GoAway { last_good, status });
        self.over = true;
        for (id, stream) in &mut self.streams {
            stream.reset();
            self.events.push_back(Event::Readable(*id));
        }
        self.events.push_back(Event::Writable(None));
        error
    }

    fn control(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::SynStream {
                id,
                fin,
                unidirectional,
                headers,
                ..
            } => self.opened(id, fin, unidirectional, headers)?,
            Frame::SynReply { id, fin, .. } => {
                let own = id.get() % 2 == self.next_id % 2;
                if let Some(stream) = self.streams.get_mut(&id).filter(|_| own) {
                    stream.accepted = true;
                    self.events.push_back(Event::Accepted(id));
                }
                self.finish_remote(id, fin);
            }
            // What Kubernetes says with headers it says when it opens a stream.
            Frame::Headers { id, fin, .. } => self.finish_remote(id, fin),
            Frame::RstStream { id, .. } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.reset();
                    self.events.push_back(Event::Readable(id));
                    self.events.push_back(Event::Writable(Some(id)));
                    self.forget_if_done(id);
                }
            }
            Frame::Settings { entries, .. } => self.settings(&entries)?,
            Frame::Ping(id) => {
                if id % 2 != self.next_id % 2 {
                    self.answer(&Frame::Ping(id));
                }
            }
            Frame::GoAway { status, .. } => self.events.push_back(Event::GoAway(status)),
            Frame::WindowUpdate { id, delta } => self.window_update(id, delta)?,
            Frame::Data { id, fin, bytes } => self.data(id, &bytes, fin),
        }
        Ok(())
    }

    fn opened(
        &mut self,
        id: StreamId,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    ) -> Result<(), SessionError> {
        let own = id.get() % 2 == self.next_id % 2;
        if own || id.get() <= self.last_peer_id {
            return Err(SessionError::StreamOrder(id));
        }
        self.last_peer_id = id.get();
        if self.streams.len() >= self.limits.streams {
            let status = RstStatus::REFUSED_STREAM;
            self.answer(&Frame::RstStream { id, status });
            return Ok(());
        }
        let half = |ended| if ended { Half::Ended } else { Half::Open };
        let window = Window::new(self.initial_window);
        let stream = Stream::new(half(fin), half(unidirectional), window);
        self.streams.insert(id, stream);
        self.events.push_back(Event::Opened { id, headers });
        Ok(())
    }

    fn data(&mut self, id: StreamId, bytes: &[u8], fin: bool) {
        self.receive_window.spend(bytes.len());
        let mut overrun = self.receive_window.overrun();
        let open = match self.streams.get_mut(&id) {
            Some(stream) if stream.remote == Half::Open => {
                stream.receive_window.spend(bytes.len());
                overrun |= stream.receive_window.overrun();
                if !stream.ignored {
                    if stream.received.is_empty() && !bytes.is_empty() {
                        self.events.push_back(Event::Readable(id));
                    }
                    stream.received.extend_from_slice(bytes);
                    self.unread_len += bytes.len();
                }
                Some(stream.ignored)
            }
            _ => None,
        };
        if overrun && self.peer_windows == PeerWindows::Unknown {
            self.peer_windows = PeerWindows::Ignored;
        }
        if let Some(ignored) = open {
            if ignored {
                self.acknowledge(Some(id), bytes.len());
            }
            self.finish_remote(id, fin);
            return;
        }
        // Of a stream that was given up: it was on its way.
        self.acknowledge(None, bytes.len());
        let known = id.get() <= self.last_peer_id || self.streams.contains_key(&id);
        let own = id.get() % 2 == self.next_id % 2 && id.get() < self.next_id;
        if !known && !own {
            let status = RstStatus::INVALID_STREAM;
            self.answer(&Frame::RstStream { id, status });
        }
    }

    fn forget_if_done(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Stream::is_done) {
            self.streams.remove(&id);
        }
    }

    fn finish_remote(&mut self, id: StreamId, fin: bool) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|_| fin)
            && stream.remote == Half::Open
        {
            stream.remote = Half::Ended;
            self.events.push_back(Event::Readable(id));
            self.forget_if_done(id);
        }
    }

    /// Sends a frame without headers from outside, which always fits.
    fn answer(&mut self, frame: &Frame) {
        let before = self.output.len();
        if self.put(frame).is_ok() {
            self.answers_len += self.output.len() - before;
        }
    }

    fn put(&mut self, frame: &Frame) -> Result<(), EncodeError> {
        if !self.over {
            let mut bytes = Vec::new();
            self.encoder.encode(frame, &mut bytes)?;
            self.output.extend_from_slice(&bytes);
        }
        Ok(())
    }

    fn put_data(&mut self, id: StreamId, fin: bool, bytes: &[u8]) {
        // At most DATA_FRAME_LEN bytes always fit.
        if let Ok(head) = data_head(id, fin, bytes.len())
            && !self.over
        {
            self.output.extend_from_slice(&head);
            self.output.extend_from_slice(bytes);
        }
    }
}
