//! Values of any type that can be decoded, drawn from a seed: what the fuzzer of the decoders begins with.
//!
//! A deserializer that makes its answers up, so that every variant of every message occurs and a new message needs no
//! line of test code. Must not know: any message.

use serde::Serialize;
use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use std::cell::Cell;

/// Longest sequence that is made up.
const MAX_ELEMENTS: u64 = 3;
/// Seeds that are tried for each value: some types refuse most numbers.
const TRIES: u64 = 64;

/// Encodings of values of a type, one for each of so many seeds for which there is one.
#[must_use]
pub fn encodings<T: Serialize + DeserializeOwned>(count: u64) -> Vec<Vec<u8>> {
    (0..count).filter_map(|seed| crate::codec::encode(&value::<T>(seed)?).ok()).collect()
}

/// A value of a type. `None`: the type refused everything that was made up.
#[must_use]
pub fn value<T: DeserializeOwned>(seed: u64) -> Option<T> {
    (0..TRIES).find_map(|attempt| {
        let source = Source { state: Cell::new(seed.wrapping_mul(TRIES).wrapping_add(attempt)) };
        T::deserialize(Inventor { source: &source }).ok()
    })
}

struct Source {
    state: Cell<u64>,
}

impl Source {
    /// SplitMix64. Source: Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
    fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Small, or at one of the places where arithmetic goes wrong.
    fn number(&self) -> u64 {
        match self.below(12) {
            0..5 => self.below(20),
            5 => 4096 * self.below(1025),
            6 => 4 << 20,
            7 => (1 << self.below(64)) - 1,
            8 => 1 << self.below(64),
            9 => self.next() >> self.below(64),
            10 => 1 << 62,
            _ => u64::MAX,
        }
    }

    fn text(&self) -> String {
        (0..self.below(8)).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }
}

#[derive(Clone, Copy)]
struct Inventor<'s> {
    source: &'s Source,
}

/// So many more elements.
struct Elements<'s> {
    source: &'s Source,
    left: u64,
}

type Failure = serde::de::value::Error;

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            visitor.$visit(self.source.number() as $type)
        })*
    };
}

impl<'de> Deserializer<'de> for Inventor<'_> {
    type Error = Failure;

    numbers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i128 visit_i128 i128;
        deserialize_u128 visit_u128 u128;
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failure> {
        Err(Failure::custom("a type that asks what it is"))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_bool(self.source.below(2) == 1)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_f32(self.source.below(1000) as f32)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_f64(self.source.below(1000) as f64)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_char('w')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_string(self.source.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_string(self.source.text())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_byte_buf(self.source.text().into_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_byte_buf(self.source.text().into_bytes())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.source.below(3) == 0 { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_seq(Elements { source: self.source, left: self.source.below(MAX_ELEMENTS + 1) })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_seq(Elements { source: self.source, left: len as u64 })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_map(Elements { source: self.source, left: self.source.below(MAX_ELEMENTS + 1) })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_enum(Chosen { source: self.source, variants: variants.len() as u64 })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failure> {
        Err(Failure::custom("a type that asks for names"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failure> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Inventor { source: self.source }).map(Some)
    }
}

impl<'de> MapAccess<'de> for Elements<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        seed.deserialize(Inventor { source: self.source })
    }
}

struct Chosen<'s> {
    source: &'s Source,
    variants: u64,
}

impl<'de, 's> EnumAccess<'de> for Chosen<'s> {
    type Error = Failure;
    type Variant = Inventor<'s>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Inventor<'s>), Failure> {
        let variant: U32Deserializer<Failure> = (self.source.below(self.variants) as u32).into_deserializer();
        Ok((seed.deserialize(variant)?, Inventor { source: self.source }))
    }
}

impl<'de> VariantAccess<'de> for Inventor<'_> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failure> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_tuple(fields.len(), visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataError, Effect, EntryHeader};
    use std::collections::BTreeSet;

    #[test]
    fn what_is_made_up_has_every_variant_and_decodes() {
        let effects: BTreeSet<_> = (0..200)
            .filter_map(value::<Effect>)
            .map(|effect| format!("{effect:?}").split([' ', '{']).next().map(str::to_owned))
            .collect();
        assert_eq!(effects.len(), 7, "{effects:?}");
        for bytes in encodings::<EntryHeader>(50) {
            assert!(crate::codec::decode::<EntryHeader>(&bytes).is_ok());
        }
        assert!(encodings::<Result<u8, DataError>>(50).len() > 40);
    }
}
