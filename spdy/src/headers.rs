//! Header blocks: names and values, and their compression.
//!
//! Reading inflates, as peers compress in earnest. Writing does not compress: it wraps the block in stored
//! deflate blocks, which every inflater reads. A server here sends no headers worth the 270 kB of
//! state that a compressor holds for each session.

use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;

/// The preset dictionary of SPDY/3 (section 2.6.10.1 of the draft).
const DICTIONARY: &[u8; 1423] = include_bytes!("dictionary.bin");
/// Adler-32 of the dictionary, which names it in a zlib head.
pub(crate) const DICTIONARY_ID: u32 = 0xe3c6_a7c2;
/// zlib head: deflate, window of 32 KiB, with a preset dictionary; 0x7820 is a multiple of 31.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x20];
/// Head of a stored block is 5 bytes: not the last, stored, length, complement of the length.
const STORED_HEAD_LEN: usize = 5;
const STORED_LEN_MAX: usize = 0xffff;
/// Ends a block of headers so that a reader may flush: what zlib writes for a sync flush. Go's inflater
/// hands out a stored block only when the next one begins.
const EMPTY_STORED: [u8; STORED_HEAD_LEN] = [0, 0, 0, 0xff, 0xff];

/// The headers of a stream, names in lower case, in the order they came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

/// A header block that cannot be read. The session cannot go on after one, as the compression of a block
/// rests on all before it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// Not what zlib writes with SPDY's dictionary.
    #[error("the header block is not a piece of a zlib stream with the SPDY/3 dictionary")]
    NotZlib,
    /// More than [`crate::Limits::header_block_len`].
    #[error("the header block has more than {0} bytes when inflated")]
    TooLong(usize),
    /// More than [`crate::Limits::headers`].
    #[error("the header block has {count} headers, at most {max} are allowed")]
    TooMany {
        /// As the block says.
        count: u32,
        /// The limit.
        max: u32,
    },
    /// Lengths and bytes do not fit each other.
    #[error("the header block ends within a header or has bytes left over")]
    Truncated,
    /// Names are not empty, in lower case and unique; both are UTF-8.
    #[error("a header's name is empty, repeated, not in lower case, or it is not UTF-8")]
    Malformed,
}

impl Headers {
    /// Headers in the order given; names are put into lower case.
    pub fn new<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: AsRef<str>,
        V: Into<String>,
    {
        let lower = |(name, value): (N, V)| (name.as_ref().to_ascii_lowercase(), value.into());
        Self(pairs.into_iter().map(lower).collect())
    }

    /// The first value of `name`, in any case. A header with several values has them in one, with NUL between.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .0
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))?;
        value.split('\0').next()
    }

    pub(crate) fn to_block(&self) -> Vec<u8> {
        fn text(text: &str, out: &mut Vec<u8>) {
            out.extend(len(text.len()).to_be_bytes());
            out.extend(text.as_bytes());
        }
        // What is longer than 4 GB is refused by the length of its frame.
        fn len(len: usize) -> u32 {
            u32::try_from(len).unwrap_or(u32::MAX)
        }
        let mut out = Vec::new();
        out.extend(len(self.0.len()).to_be_bytes());
        for (name, value) in &self.0 {
            text(name, &mut out);
            text(value, &mut out);
        }
        out
    }

    pub(crate) fn from_block(mut block: &[u8], max: u32) -> Result<Self, HeaderError> {
        let count = number(&mut block)?;
        if count > max {
            return Err(HeaderError::TooMany { count, max });
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?;
            let value = text(&mut block)?;
            let known = pairs.iter().any(|(other, _)| *other == name);
            if name.is_empty() || known || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(HeaderError::Malformed);
            }
            pairs.push((name, value));
        }
        if block.is_empty() {
            Ok(Self(pairs))
        } else {
            Err(HeaderError::Truncated)
        }
    }
}

fn number(block: &mut &[u8]) -> Result<u32, HeaderError> {
    let (number, rest) = block.split_first_chunk().ok_or(HeaderError::Truncated)?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let len = usize::try_from(number(block)?).map_err(|_| HeaderError::Truncated)?;
    let (text, rest) = block.split_at_checked(len).ok_or(HeaderError::Truncated)?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Malformed)
}

/// Wraps the blocks of one direction of a session into one zlib stream.
#[derive(Debug, Default)]
pub(crate) struct Deflater {
    begun: bool,
}

impl Deflater {
    /// Length of the next block when `plain_len` bytes go into it.
    pub(crate) fn len(&self, plain_len: usize) -> usize {
        let head = if self.begun { 0 } else { ZLIB_HEAD.len() + 4 };
        let blocks = plain_len.div_ceil(STORED_LEN_MAX) + 1;
        head + plain_len + blocks * STORED_HEAD_LEN
    }

    pub(crate) fn deflate(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if !self.begun {
            out.extend(ZLIB_HEAD);
            out.extend(DICTIONARY_ID.to_be_bytes());
            self.begun = true;
        }
        for stored in plain.chunks(STORED_LEN_MAX) {
            let len = u16::try_from(stored.len()).unwrap_or(u16::MAX);
            out.push(0);
            out.extend(len.to_le_bytes());
            out.extend((!len).to_le_bytes());
            out.extend(stored);
        }
        out.extend(EMPTY_STORED);
    }
}

/// Inflates the blocks of one direction of a session. Its 40 kB come with the first block.
#[derive(Debug, Default)]
pub(crate) struct Inflater {
    stream: Option<Decompress>,
}

impl Inflater {
    /// Inflates one whole block to at most `max` bytes.
    pub(crate) fn inflate(&mut self, mut block: &[u8], max: usize) -> Result<Vec<u8>, HeaderError> {
        let stream = self.stream.get_or_insert_with(|| Decompress::new(true));
        let mut plain = Vec::with_capacity(512.min(max + 1));
        loop {
            let before = (stream.total_in(), plain.len());
            match stream.decompress_vec(block, &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    let set = stream.set_dictionary(DICTIONARY);
                    set.map_err(|_| HeaderError::NotZlib)?;
                }
                Ok(Status::StreamEnd) | Err(_) => return Err(HeaderError::NotZlib),
            }
            let taken = stream.total_in() - before.0;
            let taken = usize::try_from(taken).map_err(|_| HeaderError::NotZlib)?;
            block = block.get(taken..).ok_or(HeaderError::NotZlib)?;
            if plain.len() > max {
                return Err(HeaderError::TooLong(max));
            }
            if plain.len() == plain.capacity() {
                plain.reserve_exact(plain.len().min(max + 1 - plain.len()));
            } else if block.is_empty() {
                return Ok(plain);
            } else if taken == 0 && plain.len() == before.1 {
                return Err(HeaderError::NotZlib);
            }
        }
    }
}
