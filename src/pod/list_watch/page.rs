//! A page of a list, read while it comes: of a page of any size only one object is in memory.
//!
//! Owns the order of bytes in it. Knows nothing of what the objects are, nor of what follows a page.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use tokio_util::codec::Decoder;

use crate::pod::protobuf::{Error as Unread, MAGIC};

/// A key and a length: two varints.
const HEAD_MAX: usize = 20;

/// A part of a page.
#[derive(Debug)]
pub(super) enum Part {
    /// What it says of itself.
    Metadata(Metadata),
    /// An object.
    Item(Bytes),
}

/// `ListMeta` of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
#[derive(prost::Message)]
pub(super) struct Metadata {
    #[prost(string, tag = "2")]
    pub(super) resource_version: String,
    #[prost(string, tag = "3")]
    pub(super) continue_: String,
}

/// Why a page ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] std::io::Error),
    /// It is no list.
    #[error(transparent)]
    Unread(#[from] Unread),
}

/// Takes a page apart.
#[derive(Debug, Default)]
pub(super) struct Parts(Place);

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Magic,
    /// Among the fields of `Unknown` of k8s.io/apimachinery/pkg/runtime/generated.proto, before the list.
    Envelope,
    /// Among those of the list, of which so many bytes are left.
    List(usize),
    Behind,
}

/// A field that has its length before it; objects and their envelopes have no others.
struct Head {
    number: u32,
    /// Of the key and the length.
    before: usize,
    length: usize,
}

impl Head {
    /// `None` when more has to come.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Unread> {
        let mut rest = bytes;
        let read = decode_key(&mut rest).and_then(|key| Ok((key, decode_varint(&mut rest)?)));
        match read {
            Ok(((number, WireType::LengthDelimited), length)) => Ok(Some(Self {
                number,
                before: bytes.len() - rest.len(),
                length: usize::try_from(length).map_err(|_| Unread::Short)?,
            })),
            Ok(((number, _), _)) => Err(Unread::Mistyped("a list", number)),
            Err(_) if bytes.len() < HEAD_MAX => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The whole field, when it is there.
    fn take(&self, from: &mut BytesMut) -> Option<Bytes> {
        let whole = self.before.saturating_add(self.length);
        if from.len() < whole {
            return None;
        }
        from.advance(self.before);
        Some(from.split_to(self.length).freeze())
    }
}

impl Decoder for Parts {
    type Item = Part;
    type Error = Error;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Part>, Error> {
        loop {
            match self.0 {
                Place::Magic => {
                    let there = from.len().min(MAGIC.len());
                    if from[..there] != MAGIC[..there] {
                        return Err(Unread::Foreign.into());
                    }
                    if there < MAGIC.len() {
                        return Ok(None);
                    }
                    from.advance(there);
                    self.0 = Place::Envelope;
                }
                Place::Envelope => {
                    let Some(head) = Head::read(from)? else {
                        return Ok(None);
                    };
                    if head.number == 2 {
                        from.advance(head.before);
                        self.0 = Place::List(head.length);
                    } else if head.take(from).is_none() {
                        return Ok(None);
                    }
                }
                Place::List(0) => self.0 = Place::Behind,
                Place::List(left) => {
                    let Some(head) = Head::read(&from[..from.len().min(left)])? else {
                        return Ok(None);
                    };
                    let whole = head.before.saturating_add(head.length);
                    let left = left.checked_sub(whole).ok_or(Unread::Short)?;
                    let Some(field) = head.take(from) else {
                        return Ok(None);
                    };
                    self.0 = Place::List(left);
                    match head.number {
                        1 => {
                            let metadata = Metadata::decode(field).map_err(Unread::from)?;
                            return Ok(Some(Part::Metadata(metadata)));
                        }
                        2 => return Ok(Some(Part::Item(field))),
                        _ => {}
                    }
                }
                Place::Behind => {
                    from.clear();
                    return Ok(None);
                }
            }
        }
    }

    fn decode_eof(&mut self, from: &mut BytesMut) -> Result<Option<Part>, Error> {
        let part = self.decode(from)?;
        match (part, self.0) {
            (None, Place::Behind) => Ok(None),
            (None, _) => Err(Unread::Short.into()),
            (part, _) => Ok(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::protobuf::write::append_bytes;

    /// A page of two objects as a Go program writes it, and with a field that is not read in each message.
    fn page() -> Vec<u8> {
        let (mut metadata, mut list, mut all) = (Vec::new(), Vec::new(), MAGIC.to_vec());
        append_bytes(2, b"7", &mut metadata);
        append_bytes(3, b"more", &mut metadata);
        append_bytes(1, &metadata, &mut list);
        append_bytes(2, b"an object", &mut list);
        // Its length takes two bytes.
        append_bytes(2, &[b'x'; 300], &mut list);
        append_bytes(15, b"new", &mut list);
        append_bytes(1, b"\x0a\x02v1\x12\x07PodList", &mut all);
        append_bytes(2, &list, &mut all);
        append_bytes(3, b"", &mut all);
        append_bytes(4, b"", &mut all);
        all
    }

    /// The parts of what comes in pieces, in the words of the tests.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<String>, Error> {
        let (mut parts, mut buffer, mut all) = (Parts::default(), BytesMut::new(), Vec::new());
        let told = |part| match part {
            Part::Metadata(said) => format!("{} {}", said.resource_version, said.continue_),
            Part::Item(item) => format!("{} of {}", item.len(), char::from(item[0])),
        };
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(part) = parts.decode(&mut buffer)? {
                all.push(told(part));
            }
        }
        while let Some(part) = parts.decode_eof(&mut buffer)? {
            all.push(told(part));
        }
        Ok(all)
    }

    #[test]
    fn a_page_is_the_same_in_pieces_of_any_size() {
        let page = page();
        for size in 1..=page.len() {
            let parts = read(page.chunks(size)).unwrap();
            assert_eq!(parts, ["7 more", "9 of a", "300 of x"], "{size} bytes each");
        }
    }

    #[test]
    fn a_page_that_is_cut_within_the_list_is_no_shorter_list() {
        let page = page();
        // Behind the list are two empty fields.
        for length in 0..page.len() - 4 {
            let cut = read([&page[..length]]);
            assert!(cut.is_err(), "{length} bytes: {cut:?}");
        }
    }

    #[test]
    fn an_object_that_is_longer_than_its_list_is_refused_when_its_length_is_read() {
        let mut list = Vec::new();
        append_bytes(2, b"an object", &mut list);
        list[1] += 1;
        let mut all = MAGIC.to_vec();
        append_bytes(2, &list, &mut all);
        assert!(matches!(
            read([&all[..]]),
            Err(Error::Unread(Unread::Short))
        ));
        list[1] = 0xff;
        list.splice(2..2, [0xff; 8].into_iter().chain([1]));
        let mut all = MAGIC.to_vec();
        append_bytes(2, &list, &mut all);
        assert!(matches!(
            read([&all[..]]),
            Err(Error::Unread(Unread::Short))
        ));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let mut number = MAGIC.to_vec();
        append_bytes(2, &[2 << 3, 1], &mut number);
        for (bytes, why) in [
            (&b"<html>"[..], "protobuf"),
            (b"{}", "protobuf"),
            (b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "message"),
            (&number, "field 2 of a list"),
        ] {
            let error = read([bytes]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
