//! JSON in which every object says each thing once.
//!
//! `serde_json` keeps the last of several members of one name, other parsers keep the first: whoever signs and whoever verifies
//! could read two things in one text.

use std::{collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How deep values may lie in each other; the claims of a token need four.
const MAX_DEPTH: u8 = 8;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Json {
    Text(String),
    Number(u64),
    List(Vec<Self>),
    Object(BTreeMap<String, Self>),
    /// `null`, a truth value, or a number that is no whole one: nothing here asks for them.
    Other,
}

impl Json {
    /// Reads the one object that a text consists of.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(super) fn object(text: &[u8]) -> Result<BTreeMap<String, Self>, String> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let value = Value { depth: MAX_DEPTH }.deserialize(&mut deserializer);
        let value = value.and_then(|value| deserializer.end().map(|()| value));
        match value {
            Ok(Self::Object(members)) => Ok(members),
            Ok(_) => Err("not a JSON object".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) const fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }
}

/// Reads a value that may hold others, so deep.
struct Value {
    depth: u8,
}

impl Value {
    fn inner<E: serde::de::Error>(&self) -> Result<u8, E> {
        self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let depth = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Self { depth })? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let depth = self.inner()?;
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(A::Error::custom("a member that is there twice"));
            }
            members.insert(name, map.next_value_seed(Self { depth })?);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_it_is() {
        let read = Json::object(br#" {"a": "x", "b": [1, null, -1, 1.5, true], "c": {"a": {}}} "#).unwrap();
        assert_eq!(read["a"].text(), Some("x"));
        let list = vec![Json::Number(1), Json::Other, Json::Other, Json::Other, Json::Other];
        assert_eq!(read["b"], Json::List(list));
        assert_eq!(read["c"], Json::Object([("a".to_owned(), Json::Object(BTreeMap::new()))].into()));
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused_at_every_level_and_in_every_spelling() {
        for twice in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "\u0061": 2}"#,
            r#"{"a": {"b": {"c": 1, "c": 2}}}"#,
            r#"{"a": [[{"c": 1, "d": 2, "c": 2}]]}"#,
        ] {
            assert!(Json::object(twice.as_bytes()).unwrap_err().contains("twice"), "{twice}");
        }
    }

    #[test]
    fn what_is_nested_too_deeply_cut_or_followed_by_more_is_refused() {
        let nested = |depth: usize, open: &str, close: &str| {
            Json::object(format!(r#"{{"a":{}0{}}}"#, open.repeat(depth), close.repeat(depth)).as_bytes())
        };
        nested(7, "[", "]").unwrap();
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            for depth in [8, 100, 2000] {
                assert!(nested(depth, open, close).is_err(), "{depth} {open}");
            }
        }
        Json::object("[".repeat(100_000).as_bytes()).unwrap_err();
        for bad in
            ["", "{", "{}{}", "{} x", "[]", "1", "{\"a\":1,}", "{a:1}", "{\"a\":\"\\ud800\"}", "\u{feff}{}"]
        {
            Json::object(bad.as_bytes()).expect_err(bad);
        }
        Json::object(b"{\"a\":\"\xff\"}").unwrap_err();
    }
}
