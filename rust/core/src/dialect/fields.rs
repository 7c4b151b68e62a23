//! The members of a body in another dialect, read one by one, so that what is wrong is said by its name.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::peek::{self, PeekError};

/// A body's members by name; of one that is given twice the last. `null` is absent.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    members: Vec<(Cow<'a, [u8]>, &'a [u8])>,
    /// Names are compared without their case, as Ollama does.
    any_case: bool,
}

impl<'a> Fields<'a> {
    /// Of a whole body.
    ///
    /// # Errors
    /// [`Error::MalformedBody`] if it is no JSON object.
    pub(crate) fn of_body(body: &'a [u8]) -> Result<Self, Error> {
        let mut members = Vec::new();
        let noted = peek::peek_with(body, |_, member| members.push((member.name(), member.value)));
        match noted {
            // Whether there is a model is for the dialect to say.
            Ok(_) | Err(PeekError::ModelNotAString) => {}
            Err(_) if body.trim_ascii().is_empty() => {
                return Err(Error::MalformedBody("it is empty: send a JSON object".to_owned()));
            }
            Err(error) => return Err(Error::MalformedBody(error.to_string())),
        }
        // Members are found without being looked into; now all of it has to be JSON.
        serde_json::from_slice::<&RawValue>(body)
            .map_err(|error| Error::MalformedBody(error.to_string()))?;
        Ok(Self { members, any_case: false })
    }

    /// Of an object inside a body, called `path`.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if it is no object.
    pub(crate) fn of(object: &'a [u8], path: &str) -> Result<Self, Error> {
        let open = peek::Members::open(object).map_err(|_| invalid(path, "must be an object"))?;
        let members = open.flatten().map(|member| (member.name(), member.value)).collect();
        Ok(Self { members, any_case: false })
    }

    /// Names in whatever case.
    pub(crate) fn in_any_case(mut self) -> Self {
        self.any_case = true;
        self
    }

    /// The value of a member, as it is spelled; `None` if there is none, or `null`.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a [u8]> {
        let is_it = |key: &[u8]| {
            key == name.as_bytes() || (self.any_case && key.eq_ignore_ascii_case(name.as_bytes()))
        };
        let found = self.members.iter().rev().find(|(key, _)| is_it(key));
        found.map(|(_, value)| *value).filter(|value| *value != b"null")
    }

    /// The same as JSON that is passed on unread.
    pub(crate) fn json(&self, name: &str) -> Option<&'a RawValue> {
        serde_json::from_slice(self.raw(name)?).ok()
    }

    /// A member of some type, which `what` names.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if it has another.
    pub(crate) fn get<T: Deserialize<'a>>(
        &self,
        name: &str,
        path: &str,
        what: &str,
    ) -> Result<Option<T>, Error> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let parsed = serde_json::from_slice(raw);
        parsed.map(Some).map_err(|_| invalid(&join(path, name), format!("must be {what}")))
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if it is none.
    pub(crate) fn text(&self, name: &str, path: &str) -> Result<Option<Cow<'a, str>>, Error> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        text(raw).map(Some).ok_or_else(|| invalid(&join(path, name), "must be a string"))
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if it is none.
    pub(crate) fn flag(&self, name: &str, path: &str) -> Result<Option<bool>, Error> {
        self.owned(name, path, "true or false")
    }

    /// A list of raw values; none if it is absent.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if it is no array.
    pub(crate) fn list(&self, name: &str, path: &str) -> Result<Vec<&'a [u8]>, Error> {
        match self.raw(name) {
            None => Ok(Vec::new()),
            Some(array) if array.starts_with(b"[") => Ok(peek::elements(array).collect()),
            Some(_) => Err(invalid(&join(path, name), "must be an array")),
        }
    }

    /// The model that it is for.
    ///
    /// # Errors
    /// [`Error::MissingModel`] or [`Error::ModelNotAString`].
    pub(crate) fn model(&self) -> Result<Cow<'a, str>, Error> {
        let model = self.text("model", "").map_err(|_| Error::ModelNotAString)?;
        model.filter(|model| !model.trim().is_empty()).ok_or(Error::MissingModel)
    }

    fn owned<T: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        what: &str,
    ) -> Result<Option<T>, Error> {
        self.get(name, path, what)
    }
}

/// A string, as it is spelled in JSON; `None` if it is none.
pub(crate) fn text(raw: &[u8]) -> Option<Cow<'_, str>> {
    /// `Cow` alone would always be owned.
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_slice(raw).ok().map(|Text(text)| text)
}

/// `messages.0` and `role` to `messages.0.role`.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// That a member is not what it has to be.
pub(crate) fn invalid(path: &str, reason: impl Into<String>) -> Error {
    Error::InvalidField { param: path.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
