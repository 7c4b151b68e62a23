//! Edits a raw JSON object: sets top-level members and leaves every other byte as it is.

use crate::peek::Members;

#[cfg(test)]
mod tests;

/// `object` with these members set to these raw values: replaced where they are, else put behind the others, so that
/// what an engine says of the place of a mistake stays true. `None` if it is not an object.
pub(crate) fn set(object: &[u8], wanted: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let added: usize = wanted.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut edited = Vec::with_capacity(object.len() + added);
    let mut copied = 0;
    let mut absent: Vec<_> = wanted.iter().collect();
    let mut empty = true;
    let mut members = Members::open(object).ok()?;
    for member in &mut members {
        let member = member.ok()?;
        empty = false;
        let name = member.name();
        if let Some((wanted, value)) = wanted.iter().find(|(wanted, _)| wanted.as_bytes() == &*name)
        {
            edited.extend_from_slice(object.get(copied..member.at)?);
            edited.extend_from_slice(value);
            copied = member.at + member.value.len();
            absent.retain(|(name, _)| name != wanted);
        }
    }
    edited.extend_from_slice(object.get(copied..members.closing())?);
    for (name, value) in absent {
        if !std::mem::take(&mut empty) {
            edited.push(b',');
        }
        edited.push(b'"');
        edited.extend_from_slice(name.as_bytes());
        edited.extend_from_slice(b"\":");
        edited.extend_from_slice(value);
    }
    edited.extend_from_slice(object.get(members.closing()..)?);
    Some(edited)
}
