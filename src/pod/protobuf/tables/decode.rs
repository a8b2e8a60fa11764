//! Reading: a serde format whose maps are messages.
//!
//! Reads only what a Go program has written: fields in the order of their numbers, the elements of a list together.

use prost::encoding::decode_key;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess};
use serde::{Deserialize, forward_to_deserialize_any};

use super::{Error, Field, Kind, Message, Raw, pair, schema};

/// Reads one message.
///
/// # Errors
/// The bytes are not this message.
pub(crate) fn from_slice<'de, T: Deserialize<'de>>(
    raw: &'de [u8],
    message: Message,
) -> Result<T, Error> {
    T::deserialize(Value {
        name: "",
        kind: Kind::One(message),
        raw: Raw::Bytes(raw),
        following: None,
    })
}

/// What follows the first field of a number in its message, for the others of that number.
struct Following<'a, 'de> {
    number: u32,
    rest: &'a mut &'de [u8],
}

impl<'de> Following<'_, 'de> {
    fn next(&mut self) -> Result<Option<Raw<'de>>, Error> {
        let mut behind = *self.rest;
        if behind.is_empty() {
            return Ok(None);
        }
        let (number, wire) = decode_key(&mut behind)?;
        if number != self.number {
            return Ok(None);
        }
        let raw = Raw::take(wire, number, &mut behind)?;
        *self.rest = behind;
        Ok(raw)
    }
}

/// The value of a field. Of a list or a map `raw` is the first element.
struct Value<'a, 'de> {
    name: &'static str,
    kind: Kind,
    raw: Raw<'de>,
    /// Absent where there is no field around it.
    following: Option<Following<'a, 'de>>,
}

impl Value<'_, '_> {
    fn time(&self) -> Result<jiff::Timestamp, Error> {
        let [seconds, nanos] = pair(self.raw.bytes(self.name)?)?;
        let (seconds, nanos) = match (seconds, nanos) {
            (Some(Raw::Varint(seconds)), Some(Raw::Varint(nanos))) => (seconds, nanos),
            (Some(Raw::Varint(seconds)), None) => (seconds, 0),
            _ => return Err(Error::Mistyped(self.name)),
        };
        let nanos = i32::try_from(nanos.cast_signed()).map_err(|_| Error::Mistyped(self.name))?;
        jiff::Timestamp::new(seconds.cast_signed(), nanos).map_err(de::Error::custom)
    }
}

impl<'de> Deserializer<'de> for Value<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let name = self.name;
        match self.kind {
            Kind::Text => visitor.visit_borrowed_str(self.raw.text(name)?),
            Kind::Time => visitor.visit_string(self.time()?.to_string()),
            Kind::Bool | Kind::Count | Kind::Number => match (self.kind, self.raw) {
                (_, Raw::Bytes(_)) => Err(Error::Mistyped(name)),
                (Kind::Bool, Raw::Varint(value)) => visitor.visit_bool(value != 0),
                (_, Raw::Varint(value)) => visitor.visit_i64(value.cast_signed()),
            },
            Kind::One(message) | Kind::Embedded(message) => {
                visitor.visit_map(Fields::new(self.raw.bytes(name)?, message))
            }
            Kind::Texts => visitor.visit_seq(Elements::of(self, Kind::Text)),
            Kind::Numbers => visitor.visit_seq(Elements::of(self, Kind::Number)),
            Kind::Many(message) => visitor.visit_seq(Elements::of(self, Kind::One(message))),
            Kind::TextMap => visitor.visit_map(Entries::of(self, |value| value.text(name))),
            Kind::Quantities => visitor.visit_map(Entries::of(self, |value| {
                let [text, _] = pair(value.bytes(name)?)?;
                text.map_or(Ok(""), |text| text.text(name))
            })),
        }
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        name: &'static str,
        wanted: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Kind::One(message) = self.kind {
            debug_assert_eq!(
                schema::missing(message, wanted),
                None,
                "a field that {name} reads has no number"
            );
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self.raw.text(self.name)?.into_deserializer())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// The fields of a message as a map.
struct Fields<'de> {
    rest: &'de [u8],
    message: Message,
    /// What is left of the parent, within an embedded message.
    parent: Option<(&'de [u8], Message)>,
    found: Option<(&'static Field, Raw<'de>)>,
}

impl<'de> Fields<'de> {
    fn new(rest: &'de [u8], message: Message) -> Self {
        Self {
            rest,
            message,
            parent: None,
            found: None,
        }
    }

    fn advance(&mut self) -> Result<Option<(&'static Field, Raw<'de>)>, Error> {
        loop {
            if self.rest.is_empty() {
                let Some(parent) = self.parent.take() else {
                    return Ok(None);
                };
                (self.rest, self.message) = parent;
                continue;
            }
            let (number, wire) = decode_key(&mut self.rest)?;
            let raw = Raw::take(wire, number, &mut self.rest)?;
            let field = self.message.iter().find(|field| field.number == number);
            match (field, raw) {
                (
                    Some(Field {
                        kind: Kind::Embedded(message),
                        name,
                        ..
                    }),
                    Some(raw),
                ) => {
                    self.parent = Some((self.rest, self.message));
                    (self.rest, self.message) = (raw.bytes(name)?, message);
                }
                (Some(field), Some(raw)) if !raw.is_absent(field.kind) => {
                    return Ok(Some((field, raw)));
                }
                _ => {}
            }
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.found = self.advance()?;
        self.found
            .map(|(field, _)| seed.deserialize(BorrowedStrDeserializer::new(field.name)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (field, raw) = self.found.take().ok_or(Error::Short)?;
        seed.deserialize(Value {
            name: field.name,
            kind: field.kind,
            raw,
            following: Some(Following {
                number: field.number,
                rest: &mut self.rest,
            }),
        })
        // Serde's own words name no field.
        .map_err(|error| match error {
            Error::Refused(why) => Error::Refused(format!("{}: {why}", field.name)),
            error => error,
        })
    }
}

/// The elements of a list.
struct Elements<'a, 'de> {
    name: &'static str,
    kind: Kind,
    next: Option<Raw<'de>>,
    following: Option<Following<'a, 'de>>,
}

impl<'a, 'de> Elements<'a, 'de> {
    fn of(list: Value<'a, 'de>, kind: Kind) -> Self {
        Self {
            name: list.name,
            kind,
            next: Some(list.raw),
            following: list.following,
        }
    }

    fn take(&mut self) -> Result<Option<Raw<'de>>, Error> {
        match (self.next.take(), &mut self.following) {
            (None, Some(following)) => following.next(),
            (next, _) => Ok(next),
        }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let element = self.take()?.map(|raw| Value {
            name: self.name,
            kind: self.kind,
            raw,
            following: None,
        });
        element.map(|element| seed.deserialize(element)).transpose()
    }
}

/// The entries of a map: each a message with the key and the value, which `read` makes a text of.
struct Entries<'a, 'de, F> {
    elements: Elements<'a, 'de>,
    value: Option<Raw<'de>>,
    read: F,
}

impl<'a, 'de, F> Entries<'a, 'de, F>
where
    F: Fn(Raw<'de>) -> Result<&'de str, Error>,
{
    fn of(map: Value<'a, 'de>, read: F) -> Self {
        Self {
            elements: Elements::of(map, Kind::Text),
            value: None,
            read,
        }
    }
}

impl<'de, F> MapAccess<'de> for Entries<'_, 'de, F>
where
    F: Fn(Raw<'de>) -> Result<&'de str, Error>,
{
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.elements.take()? else {
            return Ok(None);
        };
        let name = self.elements.name;
        let [key, value] = pair(entry.bytes(name)?)?;
        self.value = value;
        let key = key.map_or(Ok(""), |key| key.text(name))?;
        seed.deserialize(BorrowedStrDeserializer::new(key))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self.value.take().map_or(Ok(""), &self.read)?;
        seed.deserialize(BorrowedStrDeserializer::new(value))
    }
}
