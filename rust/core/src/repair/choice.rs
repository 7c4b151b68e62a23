//! A `tool_choice` that names tools. llama-server reads every object as if nothing was said, so it gets those tools only,
//! and a word.

use std::borrow::Cow;

use crate::dialect::fields::{Fields, invalid, join};
use crate::error::Error;
use crate::peek::{Member, elements};
use crate::splice::{self, Edit};

#[cfg(test)]
mod tests;

const CHOICE: &str = "tool_choice";

/// The body of a chat with the tools that may be called only. `None` if it says nothing that an engine would not hear.
///
/// # Errors
/// [`Error::InvalidField`] if no such tools can be chosen.
pub(crate) fn narrow(
    body: &[u8],
    choice: Member<'_>,
    tools: Option<Member<'_>>,
) -> Result<Option<Vec<u8>>, Error> {
    if !choice.value.starts_with(b"{") {
        return Ok(None);
    }
    let Some(Choice { word, names }) = Choice::read(choice.value)? else { return Ok(None) };
    let mut edits = vec![Edit { name: CHOICE, value: word.as_bytes(), present: Some(choice) }];
    let kept;
    if let Some(names) = names {
        kept = keep(tools, &names)?;
        edits.push(Edit { name: "tools", value: &kept, present: tools });
    }
    Ok(splice::apply(body, &mut edits))
}

/// What is chosen, in words that an engine knows.
struct Choice<'a> {
    /// As it is spelled.
    word: &'static str,
    /// The tools that may be called; all if it names none.
    names: Option<Vec<Cow<'a, str>>>,
}

impl<'a> Choice<'a> {
    /// `None` if it is what an engine does anyway.
    fn read(object: &'a [u8]) -> Result<Option<Self>, Error> {
        let choice = Fields::of(object, CHOICE)?;
        let kind = choice.text("type", CHOICE)?.unwrap_or_default();
        Ok(Some(match &*kind {
            "function" => {
                Self { word: "\"required\"", names: Some(vec![name_of(&choice, CHOICE)?]) }
            }
            "allowed_tools" => Self::among(&choice)?,
            "auto" => return Ok(None),
            "none" => Self { word: "\"none\"", names: None },
            "required" | "any" => Self { word: "\"required\"", names: None },
            _ => {
                let reason = "must be `function` or `allowed_tools`";
                return Err(invalid(&join(CHOICE, "type"), reason));
            }
        }))
    }

    fn among(choice: &Fields<'a>) -> Result<Self, Error> {
        let path = join(CHOICE, "allowed_tools");
        let inside = choice.raw("allowed_tools").map(|raw| Fields::of(raw, &path)).transpose()?;
        let allowed = inside.as_ref().unwrap_or(choice);
        let word = match allowed.text("mode", &path)?.as_deref() {
            Some("required") => "\"required\"",
            Some("auto") | None => "\"auto\"",
            Some(_) => return Err(invalid(&join(&path, "mode"), "must be `auto` or `required`")),
        };
        let tools = allowed.list("tools", &path)?.into_iter().enumerate();
        let names = tools.map(|(place, raw)| {
            let path = format!("{path}.tools.{place}");
            name_of(&Fields::of(raw, &path)?, &path)
        });
        Ok(Self { word, names: Some(names.collect::<Result<_, _>>()?) })
    }
}

fn name_of<'a>(choice: &Fields<'a>, path: &str) -> Result<Cow<'a, str>, Error> {
    let function = choice.raw("function").map(|raw| Fields::of(raw, path)).transpose()?;
    let name = function.as_ref().unwrap_or(choice).text("name", path)?;
    name.ok_or_else(|| invalid(&join(path, "function.name"), "must be a string"))
}

/// The tools of these names, as an array.
fn keep(tools: Option<Member<'_>>, names: &[Cow<'_, str>]) -> Result<Vec<u8>, Error> {
    let declared = tools.map(|tools| tools.value).unwrap_or_default();
    let mut known: Vec<(Cow<'_, str>, &[u8])> = Vec::new();
    for tool in elements(declared) {
        // What is no function is for the engine to refuse.
        if let Ok(name) = Fields::of(tool, "tools").and_then(|fields| name_of(&fields, "tools")) {
            known.push((name, tool));
        }
    }
    if let Some(unknown) = names.iter().find(|name| !known.iter().any(|(it, _)| it == *name)) {
        return Err(invalid(CHOICE, format!("no tool is called `{unknown}`")));
    }
    let kept = known.into_iter().filter(|(name, _)| names.contains(name)).map(|(_, tool)| tool);
    let kept: Vec<&[u8]> = kept.collect();
    Ok([b"[", kept.join(&b","[..]).as_slice(), b"]"].concat())
}
