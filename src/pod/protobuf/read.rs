//! Reading a message field by field, into a value that is there already: nothing is made only to be moved.
//!
//! Absent is what JSON would leave out. Go writes an empty string or a 0 that is not behind a pointer into protobuf, and
//! `omitempty` keeps it out of JSON; [`Field`] has a reading for each of the two.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as NoName, StrDeserializer};

use super::Error;

/// Where every object has its metadata.
pub(in crate::pod) const METADATA: u32 = 1;

/// A message that is read.
pub trait Read {
    /// What Kubernetes calls it, for errors.
    const NAME: &'static str;

    /// Takes in one field, and leaves one whose number it does not know.
    ///
    /// # Errors
    /// The field is written in another way.
    fn take(&mut self, field: &Field<'_>) -> Result<(), Error>;
}

/// Reads an object, which has its metadata in field 1.
///
/// # Errors
/// There are none, or the bytes are no such message.
pub fn object<M: Read + Default>(from: &[u8]) -> Result<M, Error> {
    let read = message(from)?;
    let mut fields = Fields::of(M::NAME, from).flatten();
    let has_metadata = fields.any(|field| field.number == METADATA);
    has_metadata.then_some(read).ok_or(Error::Bare(M::NAME))
}

/// Reads a message.
///
/// # Errors
/// The bytes are no such message.
pub fn message<M: Read + Default>(from: &[u8]) -> Result<M, Error> {
    let mut read = M::default();
    read_into(&mut read, from)?;
    Ok(read)
}

fn read_into<M: Read>(to: &mut M, from: &[u8]) -> Result<(), Error> {
    Fields::of(M::NAME, from).try_for_each(|field| to.take(&field?))
}

/// The fields of a message, in the order in which they were written.
pub(in crate::pod) struct Fields<'a> {
    of: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Of a message that is named like this in errors.
    pub(in crate::pod) fn of(name: &'static str, message: &'a [u8]) -> Self {
        Self {
            of: name,
            rest: message,
        }
    }

    fn read(&mut self) -> Result<Field<'a>, Error> {
        let begin = self.rest;
        let (number, wire) = decode_key(&mut self.rest)?;
        let value = match wire {
            WireType::Varint => Value::Varint(decode_varint(&mut self.rest)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.rest)?;
                let length = usize::try_from(length).map_err(|_| Error::Short)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Error::Short)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            _ => {
                skip_field(wire, number, &mut self.rest, DecodeContext::default())?;
                Value::Other
            }
        };
        Ok(Field {
            of: self.of,
            number,
            value,
            whole: &begin[..begin.len() - self.rest.len()],
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Error>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

/// A field as it is on the wire.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    of: &'static str,
    /// Which one it is.
    pub number: u32,
    value: Value<'a>,
    /// With its number.
    pub(in crate::pod) whole: &'a [u8],
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// What no field here has.
    Other,
}

impl<'a> Field<'a> {
    fn mistyped(&self) -> Error {
        Error::Mistyped(self.of, self.number)
    }

    /// A message or a text, without its number.
    ///
    /// # Errors
    /// It is a number.
    pub fn bytes(&self) -> Result<&'a [u8], Error> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Other => Err(self.mistyped()),
        }
    }

    fn varint(&self) -> Result<u64, Error> {
        match self.value {
            Value::Varint(value) => Ok(value),
            Value::Bytes(_) | Value::Other => Err(self.mistyped()),
        }
    }

    /// The API server takes bytes that are no text, and in JSON it writes such a byte as U+FFFD. One such
    /// pod must not be the end of a list.
    fn str(&self) -> Result<Cow<'a, str>, Error> {
        let bytes = self.bytes()?;
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => String::from_utf8_lossy(bytes),
        })
    }

    /// A text.
    ///
    /// # Errors
    /// It is a number.
    pub fn text(&self) -> Result<String, Error> {
        self.str().map(Cow::into_owned)
    }

    /// A text; absent when it is empty.
    ///
    /// # Errors
    /// It is a number.
    pub fn some_text(&self) -> Result<Option<String>, Error> {
        let text = self.str()?;
        Ok((!text.is_empty()).then(|| text.into_owned()))
    }

    /// One of several names; the default one when it is empty.
    ///
    /// # Errors
    /// It is none of them, and the type has none for others.
    pub fn name<T: Default + for<'de> Deserialize<'de>>(&self) -> Result<T, Error> {
        let text = self.str()?;
        if text.is_empty() {
            return Ok(T::default());
        }
        let name: StrDeserializer<'_, NoName> = (&*text).into_deserializer();
        T::deserialize(name).map_err(|_| self.mistyped())
    }

    /// True or false.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&self) -> Result<bool, Error> {
        self.varint().map(|value| value != 0)
    }

    /// A number, which may be 0.
    ///
    /// # Errors
    /// It is none.
    pub fn int64(&self) -> Result<i64, Error> {
        self.varint().map(u64::cast_signed)
    }

    /// A number of 32 bits, which may be 0.
    ///
    /// # Errors
    /// It is none.
    pub fn int32(&self) -> Result<i32, Error> {
        i32::try_from(self.int64()?).map_err(|_| self.mistyped())
    }

    /// A number; absent when it is 0.
    ///
    /// # Errors
    /// It is none.
    pub fn count(&self) -> Result<Option<i64>, Error> {
        self.int64()
            .map(|number| Some(number).filter(|number| *number != 0))
    }

    /// A time: seconds and nanoseconds in fields 1 and 2; absent when it is not set.
    ///
    /// # Errors
    /// It is none.
    pub fn time(&self) -> Result<Option<Timestamp>, Error> {
        #[derive(Default)]
        struct Time(i64, i32);
        impl Read for Time {
            const NAME: &'static str = "Time";
            fn take(&mut self, field: &Field<'_>) -> Result<(), Error> {
                match field.number {
                    1 => self.0 = field.int64()?,
                    2 => self.1 = field.int32()?,
                    _ => {}
                }
                Ok(())
            }
        }
        if self.bytes()?.is_empty() {
            return Ok(None);
        }
        let Time(seconds, nanos) = self.message()?;
        // Go tells years of which jiff knows nothing; the nearest one that it knows is as far away.
        let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let time =
            Timestamp::new(seconds.clamp(first, last), nanos).map_err(|_| self.mistyped())?;
        Ok(Some(time))
    }

    /// A message.
    ///
    /// # Errors
    /// It is a number, or one of its fields is written in another way.
    pub fn message<M: Read + Default>(&self) -> Result<M, Error> {
        message(self.bytes()?)
    }

    /// A message whose fields are those of `to`: one that stands once, or one that Go embeds.
    ///
    /// # Errors
    /// As [`message`](Self::message).
    pub fn read_into<M: Read>(&self, to: &mut M) -> Result<(), Error> {
        read_into(to, self.bytes()?)
    }

    /// An entry of a map from texts to texts: a message with both.
    ///
    /// # Errors
    /// It is none.
    pub fn text_entry(&self, to: &mut BTreeMap<String, String>) -> Result<(), Error> {
        let (key, value) = self.pair()?;
        let text = value.map(|value| value.text()).transpose()?;
        to.insert(key, text.unwrap_or_default());
        Ok(())
    }

    /// An entry of a map from texts to quantities, each a message with a text.
    ///
    /// # Errors
    /// It is none.
    pub fn quantity_entry(&self, to: &mut BTreeMap<String, String>) -> Result<(), Error> {
        let (key, value) = self.pair()?;
        let quantity = value.map(|value| value.pair()).transpose()?;
        to.insert(key, quantity.unwrap_or_default().0);
        Ok(())
    }

    /// Field 1 of a message, a text, and field 2.
    fn pair(&self) -> Result<(String, Option<Self>), Error> {
        let (mut first, mut second) = (String::new(), None);
        for field in Fields::of("an entry", self.bytes()?) {
            let field = field?;
            match field.number {
                1 => first = field.text()?,
                2 => second = Some(field),
                _ => {}
            }
        }
        Ok((first, second))
    }
}
