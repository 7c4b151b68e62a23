//! Whether two spellings mean the same model.

#[cfg(test)]
mod tests;

/// Whether `wanted` is the model's ID, a short form of it, or one of its names in whatever spelling.
pub(super) fn means<'a>(
    wanted: &str,
    id: &str,
    mut names: impl Iterator<Item = &'a String>,
) -> bool {
    let wanted = wanted.trim();
    // `name@sha256:…` is that model, whatever the name.
    let digest = wanted.rsplit_once('@').map_or(wanted, |(_, digest)| digest);
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    if digest == id || digest == digits || digits.get(..12) == Some(digest) {
        return true;
    }
    let wanted = canonical(wanted);
    names.any(|name| canonical(name) == wanted)
}

/// The one spelling of all that mean the same: `hf.co` in full, a tag, an organisation, lower case.
fn canonical(name: &str) -> String {
    let name = name.trim();
    let full = name.strip_prefix("hf.co/").map(|rest| format!("huggingface.co/{rest}"));
    let name = full.as_deref().unwrap_or(name);
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, ""),
    };
    let organisation = if repository.contains('/') { "" } else { "ai/" };
    let tag = if tag.is_empty() { "latest" } else { tag };
    format!("{organisation}{}:{tag}", repository.to_lowercase())
}
