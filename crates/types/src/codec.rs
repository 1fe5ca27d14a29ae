//! From bytes to values, with bounds.
//!
//! Everything that comes from a peer or from a disk in postcard is decoded here.
//! Guarantees: no panic; bytes behind the value are an error; the memory that a value may take is bounded by
//! [`decode_limit_bytes`] of the bytes it came from, whatever lengths they claim. Must not know: any message.
//!
//! postcard believes a length as soon as that many elements follow, and an element of one byte on the wire may be
//! hundreds in memory. So what sequences and maps put on the heap is counted while they are read, and the decoder stops
//! when the sum is beyond what an honest value of that length needs.

use serde::Serialize;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use std::cell::Cell;
use std::fmt;

/// Memory that a value may take whatever its length: a batch of commands, each a few bytes on the wire.
const FREE_BYTES: usize = 256 << 10;
/// Memory for each byte of input: the smallest elements of messages are a few bytes and take 16 to 300 in memory.
const BYTES_PER_BYTE: usize = 64;
/// Memory that any value may take. The largest honest ones (a page of a directory, a map of thousands of groups) need
/// less than ten times the 4 MiB that a header may have.
pub const MAX_DECODED_BYTES: usize = 64 << 20;
/// Values within values. Messages are less than twenty deep.
const MAX_DEPTH: usize = 64;
/// Elements for which memory is set aside on the word of a length; more as they come.
const BELIEVED_ELEMENTS: usize = 256;

/// Bytes that are not one value of the type asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the bytes are no such value")]
    Malformed,
    #[error("{bytes} bytes follow the value")]
    Trailing { bytes: usize },
    #[error("the value would take more than {limit_bytes} bytes of memory")]
    TooLarge { limit_bytes: usize },
}

/// Memory that a value decoded from so many bytes may take.
#[must_use]
pub const fn decode_limit_bytes(input_bytes: usize) -> usize {
    let grown = input_bytes.saturating_mul(BYTES_PER_BYTE).saturating_add(FREE_BYTES);
    if grown < MAX_DECODED_BYTES { grown } else { MAX_DECODED_BYTES }
}

/// Decodes exactly one value.
///
/// # Errors
/// When the bytes are not exactly one `T`, or `T` would take more memory than [`decode_limit_bytes`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let limit_bytes = decode_limit_bytes(bytes.len());
    let budget = Budget { left: Cell::new(limit_bytes), exceeded: Cell::new(false), depth: Cell::new(0) };
    let mut inner = postcard::Deserializer::from_bytes(bytes);
    let value = T::deserialize(Metered { inner: &mut inner, budget: &budget });
    match (value, inner.finalize()) {
        _ if budget.exceeded.get() => Err(DecodeError::TooLarge { limit_bytes }),
        (Ok(value), Ok([])) => Ok(value),
        (Ok(_), Ok(rest)) => Err(DecodeError::Trailing { bytes: rest.len() }),
        _ => Err(DecodeError::Malformed),
    }
}

/// Encodes a value.
///
/// # Errors
/// When the type cannot be written in postcard (a sequence of unknown length); no type of ours is such.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_stdvec(value)
}

/// A number that counts something may be read if it can be counted on from. Nothing counts this far: at a billion a
/// second it takes a hundred years.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if number <= MAX_COUNT { Ok(number) } else { Err(D::Error::custom("a count beyond every count")) }
}

const MAX_COUNT: u64 = 1 << 62;

struct Budget {
    left: Cell<usize>,
    exceeded: Cell<bool>,
    depth: Cell<usize>,
}

impl Budget {
    fn charge<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        match self.left.get().checked_sub(bytes) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.exceeded.set(true);
                Err(E::custom("too large"))
            }
        }
    }
}

impl Budget {
    /// Goes one level deeper: a value that holds values of its own kind must not use up the stack.
    fn nested<T, E: serde::de::Error>(&self, inner: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.depth.get() >= MAX_DEPTH {
            return Err(E::custom("too deep"));
        }
        self.depth.set(self.depth.get() + 1);
        let result = inner();
        self.depth.set(self.depth.get() - 1);
        result
    }
}

/// Whether the elements of a sequence go to the heap, or are fields of a value that is counted as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Elements {
    OnTheHeap,
    Fields,
}

struct Metered<'b, D> {
    inner: D,
    budget: &'b Budget,
}

struct MeteredVisitor<'b, V> {
    inner: V,
    budget: &'b Budget,
    elements: Elements,
}

struct MeteredAccess<'b, A> {
    inner: A,
    budget: &'b Budget,
    elements: Elements,
}

struct MeteredSeed<'b, S> {
    inner: S,
    budget: &'b Budget,
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*) $elements:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let visitor = MeteredVisitor { inner: visitor, budget: self.budget, elements: Elements::$elements };
            self.inner.$method($($argument,)* visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Metered<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_any() OnTheHeap;
        deserialize_bool() Fields;
        deserialize_i8() Fields;
        deserialize_i16() Fields;
        deserialize_i32() Fields;
        deserialize_i64() Fields;
        deserialize_i128() Fields;
        deserialize_u8() Fields;
        deserialize_u16() Fields;
        deserialize_u32() Fields;
        deserialize_u64() Fields;
        deserialize_u128() Fields;
        deserialize_f32() Fields;
        deserialize_f64() Fields;
        deserialize_char() Fields;
        deserialize_str() Fields;
        deserialize_string() Fields;
        deserialize_bytes() Fields;
        deserialize_byte_buf() Fields;
        deserialize_option() Fields;
        deserialize_unit() Fields;
        deserialize_unit_struct(name: &'static str) Fields;
        deserialize_newtype_struct(name: &'static str) Fields;
        deserialize_seq() OnTheHeap;
        deserialize_tuple(len: usize) Fields;
        deserialize_tuple_struct(name: &'static str, len: usize) Fields;
        deserialize_map() OnTheHeap;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) Fields;
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) Fields;
        deserialize_identifier() Fields;
        deserialize_ignored_any() Fields;
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

macro_rules! visit_bytes {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.budget.charge(value.len())?;
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for MeteredVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    visit! {
        visit_bool: bool;
        visit_i8: i8;
        visit_i16: i16;
        visit_i32: i32;
        visit_i64: i64;
        visit_i128: i128;
        visit_u8: u8;
        visit_u16: u16;
        visit_u32: u32;
        visit_u64: u64;
        visit_u128: u128;
        visit_f32: f32;
        visit_f64: f64;
        visit_char: char;
    }

    visit_bytes! {
        visit_str: &str;
        visit_borrowed_str: &'de str;
        visit_string: String;
        visit_bytes: &[u8];
        visit_borrowed_bytes: &'de [u8];
        visit_byte_buf: Vec<u8>;
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let budget = self.budget;
        budget.nested(|| self.inner.visit_some(Metered { inner: deserializer, budget }))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let budget = self.budget;
        budget.nested(|| self.inner.visit_newtype_struct(Metered { inner: deserializer, budget }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let (budget, elements) = (self.budget, self.elements);
        budget.nested(|| self.inner.visit_seq(MeteredAccess { inner: access, budget, elements }))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let (budget, elements) = (self.budget, self.elements);
        budget.nested(|| self.inner.visit_map(MeteredAccess { inner: access, budget, elements }))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let (budget, elements) = (self.budget, self.elements);
        budget.nested(|| self.inner.visit_enum(MeteredAccess { inner: access, budget, elements }))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for MeteredSeed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Metered { inner: deserializer, budget: self.budget })
    }
}

impl<A> MeteredAccess<'_, A> {
    /// Counts one element. One of no size costs too: a length must not make a loop long.
    fn element<T, E: serde::de::Error>(&self) -> Result<(), E> {
        match self.elements {
            Elements::OnTheHeap => self.budget.charge(size_of::<T>().max(1)),
            Elements::Fields => Ok(()),
        }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for MeteredAccess<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let found = self.inner.next_element_seed(MeteredSeed { inner: seed, budget: self.budget })?;
        if found.is_some() {
            self.element::<T::Value, A::Error>()?;
        }
        Ok(found)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|elements| elements.min(BELIEVED_ELEMENTS))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for MeteredAccess<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let found = self.inner.next_key_seed(MeteredSeed { inner: seed, budget: self.budget })?;
        if found.is_some() {
            self.element::<K::Value, A::Error>()?;
        }
        Ok(found)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.element::<S::Value, A::Error>()?;
        self.inner.next_value_seed(MeteredSeed { inner: seed, budget: self.budget })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|elements| elements.min(BELIEVED_ELEMENTS))
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for MeteredAccess<'b, A> {
    type Error = A::Error;
    type Variant = MeteredAccess<'b, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(MeteredSeed { inner: seed, budget: self.budget })?;
        Ok((value, MeteredAccess { inner: variant, budget: self.budget, elements: Elements::Fields }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for MeteredAccess<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(MeteredSeed { inner: seed, budget: self.budget })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let visitor = MeteredVisitor { inner: visitor, budget: self.budget, elements: Elements::Fields };
        self.inner.tuple_variant(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = MeteredVisitor { inner: visitor, budget: self.budget, elements: Elements::Fields };
        self.inner.struct_variant(fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_encoded_comes_back() {
        let value = (vec![None, Some(5u64)], BTreeMap::from([(1u8, "one".to_owned())]), Ok::<u128, String>(1 << 100));
        assert_eq!(decode(&encode(&value).unwrap()), Ok(value));
    }

    #[test]
    fn bytes_behind_the_value_are_refused() {
        assert_eq!(decode::<u8>(&[1, 2, 3]), Err(DecodeError::Trailing { bytes: 2 }));
        assert_eq!(decode::<u64>(&[0x80]), Err(DecodeError::Malformed));
    }

    #[test]
    fn a_length_alone_sets_no_memory_aside() {
        // 2^35 elements are claimed and none follows.
        assert_eq!(decode::<Vec<[u64; 32]>>(&[0x80, 0x80, 0x80, 0x80, 0x80, 1]), Err(DecodeError::Malformed));
        // Elements that take no bytes would make an endless loop.
        assert!(matches!(decode::<Vec<()>>(&[0x80, 0x80, 0x80, 0x80, 0x80, 1]), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn small_elements_cannot_grow_into_large_memory() {
        // One byte on the wire, 264 in memory.
        let mut bytes = encode(&(2u64 << 20)).unwrap();
        bytes.resize(bytes.len() + (2 << 20), 0);
        let limit_bytes = MAX_DECODED_BYTES;
        assert_eq!(decode::<Vec<Option<[u64; 32]>>>(&bytes), Err(DecodeError::TooLarge { limit_bytes }));
        // What honest messages hold is let through: a digest of absent blocks.
        let blocks: Vec<Option<crate::BlockHash>> = vec![None; 32_768];
        assert_eq!(decode(&encode(&blocks).unwrap()), Ok(blocks));
    }

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Nest(Option<Box<Nest>>);

    #[test]
    fn a_value_within_itself_cannot_use_up_the_stack() {
        assert_eq!(decode::<Nest>(&vec![1; 1 << 20]), Err(DecodeError::Malformed));
        let nest = |inner| Nest(Some(Box::new(inner)));
        assert_eq!(decode::<Nest>(&[1, 1, 0]), Ok(nest(nest(Nest(None)))));
    }

    #[test]
    fn a_count_that_cannot_be_counted_on_from_is_refused() {
        let most = encode(&u64::MAX).unwrap();
        assert_eq!(decode::<crate::Sequence>(&most), Err(DecodeError::Malformed));
        assert_eq!(decode(&encode(&crate::Sequence(7)).unwrap()), Ok(crate::Sequence(7)));
    }
}
