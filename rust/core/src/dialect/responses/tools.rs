//! The tools of a request for a response: functions, by themselves or in a namespace.

use std::borrow::Cow;

use crate::dialect::chat::{Text, Tool};
use crate::dialect::fields::{Fields, invalid, join};
use crate::error::Error;

/// What stands between the names of a namespace and of a function in it, where an engine has one name for both.
const JOINT: &str = "__";

/// The functions that the model may call.
pub(super) fn read<'a>(fields: &Fields<'a>) -> Result<Vec<Tool<'a>>, Error> {
    let mut tools = Vec::new();
    for (place, raw) in fields.list("tools", "")?.into_iter().enumerate() {
        add(raw, &format!("tools.{place}"), None, &mut tools)?;
    }
    Ok(tools)
}

/// The namespaces that there are.
pub(super) fn namespaces(fields: &Fields<'_>) -> Vec<String> {
    let tools = fields.list("tools", "").unwrap_or_default().into_iter();
    let named = tools.filter_map(|raw| {
        let tool = Fields::of(raw, "").ok()?;
        let kind = tool.text("type", "").ok()??;
        let name = tool.text("name", "").ok()??;
        (kind == "namespace").then(|| name.into_owned())
    });
    named.collect()
}

/// The one name for a function in a namespace.
pub(super) fn joined<'a>(namespace: Option<&str>, name: Text<'a>) -> Text<'a> {
    match namespace {
        Some(namespace) => Cow::Owned(format!("{namespace}{JOINT}{name}")),
        None => name,
    }
}

/// The namespace in a name, and the name in it.
pub(super) fn parted<'a>(name: &'a str, namespaces: &'a [String]) -> Option<(&'a str, &'a str)> {
    let inside = |namespace: &'a String| {
        let rest = name.strip_prefix(namespace.as_str())?.strip_prefix(JOINT)?;
        Some((namespace.as_str(), rest))
    };
    namespaces.iter().filter_map(inside).max_by_key(|(namespace, _)| namespace.len())
}

/// Whether OpenAI itself would run it. Agents offer such tools beside their own, whatever they talk to; the model is not
/// told of them, and the response does not repeat them.
pub(super) fn is_hosted(kind: &str) -> bool {
    let hosted = ["web_search", "file_search", "code_interpreter", "image_generation"];
    hosted.iter().any(|hosted| {
        kind.strip_prefix(hosted).is_some_and(|it| !it.starts_with(char::is_alphanumeric))
    })
}

fn add<'a>(
    raw: &'a [u8],
    path: &str,
    namespace: Option<&str>,
    tools: &mut Vec<Tool<'a>>,
) -> Result<(), Error> {
    let tool = Fields::of(raw, path)?;
    match tool.text("type", path)?.unwrap_or_default().as_ref() {
        "function" => tools.push(function(&tool, path, namespace)?),
        "namespace" if namespace.is_none() => {
            let name = named(&tool, path)?;
            for (place, raw) in tool.list("tools", path)?.into_iter().enumerate() {
                add(raw, &format!("{path}.tools.{place}"), Some(&name), tools)?;
            }
        }
        kind if is_hosted(kind) => {}
        kind => {
            return Err(invalid(
                &join(path, "type"),
                format!("tool type \"{kind}\" is not supported: give tools of type \"function\""),
            ));
        }
    }
    Ok(())
}

fn function<'a>(tool: &Fields<'a>, path: &str, namespace: Option<&str>) -> Result<Tool<'a>, Error> {
    // Chat's form is taken, too.
    let function = tool.raw("function").map(|raw| Fields::of(raw, path)).transpose()?;
    let function = function.as_ref().unwrap_or(tool);
    let name = joined(namespace, named(function, path)?);
    let description = function.text("description", path)?;
    Ok(Tool::new(name, description, function.json("parameters")))
}

fn named<'a>(tool: &Fields<'a>, path: &str) -> Result<Text<'a>, Error> {
    let name = tool.text("name", path)?.filter(|name| !name.is_empty());
    name.ok_or_else(|| invalid(&join(path, "name"), "must be a string"))
}

#[cfg(test)]
mod tests {
    use super::{Fields, namespaces, parted, read};

    const CODEX: &[u8] = br#"{"model":"m","tools":[
        {"type":"function","name":"exec","parameters":{}},
        {"type":"namespace","name":"agents","tools":[{"type":"function","name":"spawn"}]},
        {"type":"web_search","external_web_access":false}]}"#;

    #[test]
    fn functions_of_a_namespace_have_its_name_before_theirs() {
        let fields = Fields::of_body(CODEX).unwrap();
        let tools = read(&fields).unwrap();
        let names: Vec<_> = tools.iter().map(|tool| &*tool.function.name).collect();
        assert_eq!(names, ["exec", "agents__spawn"]);
    }

    #[test]
    fn a_call_is_found_in_its_namespace_again() {
        let known = namespaces(&Fields::of_body(CODEX).unwrap());
        assert_eq!(parted("agents__spawn", &known), Some(("agents", "spawn")));
        assert_eq!(parted("exec", &known), None);
        let nested = ["a".to_owned(), "a__b".to_owned()];
        assert_eq!(parted("a__b__c", &nested), Some(("a__b", "c")));
    }

    #[test]
    fn what_would_be_missed_is_refused_by_its_place() {
        let body =
            br#"{"model":"m","tools":[{"type":"namespace","name":"n","tools":[{"type":"mcp"}]}]}"#;
        let error = read(&Fields::of_body(body).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("tools.0.tools.0.type: "), "{error}");
    }
}
