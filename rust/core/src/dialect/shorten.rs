//! Prompts that are too long, made shorter: the oldest messages go first.

use std::borrow::Cow;

use super::chat::{Content, Message, Part};
use crate::error::Complaint;

/// How much of the context a prompt may fill that was shortened to fit: the answer needs room, too.
const FILL: f64 = 0.75;

/// Which share of the text may be left, given that `share` of it was refused for its length; `None` if that is not why.
pub(super) fn share(share: f64, complaint: &Complaint) -> Option<f64> {
    let (prompt, room) = (complaint.prompt_tokens?, complaint.context_size?);
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let fitting = FILL * room as f64 / prompt.max(1) as f64;
    complaint.is_about_length().then_some(share * fitting.min(FILL))
}

/// Leave out the oldest messages, but for those of the system and the last, so that this share of the text is left; if that
/// is not enough, the middle of the last.
pub(super) fn messages(messages: &mut Vec<Message<'_>>, share: f64) {
    if share >= 1.0 {
        return;
    }
    let total: usize = messages.iter().map(length).sum();
    let wanted = part_of(total, share);
    let mut left = total;
    let last = messages.len().saturating_sub(1);
    let mut place = 0;
    messages.retain(|message| {
        let keep = left <= wanted || message.role == "system" || place == last;
        if !keep {
            left -= length(message);
        }
        place += 1;
        keep
    });
    if left > wanted
        && let Some(Message { content: Some(Content::Text(text)), .. }) = messages.last_mut()
    {
        let room = wanted.saturating_sub(left - text.len());
        *text = Cow::Owned(without_middle(text, room));
    }
}

/// A text of which this share is left.
pub(super) fn text(text: Cow<'_, str>, share: f64) -> Cow<'_, str> {
    if share >= 1.0 {
        return text;
    }
    let room = part_of(text.len(), share);
    Cow::Owned(without_middle(&text, room))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn part_of(length: usize, share: f64) -> usize {
    (length as f64 * share) as usize
}

/// The begin and the end of a text, so many bytes together at most.
fn without_middle(text: &str, room: usize) -> String {
    let room = room.min(text.len());
    let (mut begin, mut end) = (room / 2, text.len() - (room - room / 2));
    while !text.is_char_boundary(begin) {
        begin -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    format!("{}{}", text.get(..begin).unwrap_or_default(), text.get(end..).unwrap_or_default())
}

fn length(message: &Message<'_>) -> usize {
    let calls: usize = message.tool_calls.iter().map(|call| call.function.arguments.len()).sum();
    let content = match &message.content {
        Some(Content::Text(text)) => text.len(),
        Some(Content::Parts(parts)) => parts
            .iter()
            .map(|part| if let Part::Text { text } = part { text.len() } else { 0 })
            .sum(),
        None => 0,
    };
    content + calls
}

#[cfg(test)]
mod tests {
    use super::{Cow, Message, messages, text};

    #[test]
    fn the_oldest_go_but_not_the_system_nor_the_last() {
        let mut said: Vec<_> = ["system", "user", "assistant", "user"]
            .into_iter()
            .map(|role| Message::text(role, "x".repeat(100)))
            .collect();
        messages(&mut said, 0.8);
        let roles: Vec<_> = said.iter().map(|message| &*message.role).collect();
        assert_eq!(roles, ["system", "assistant", "user"]);
        messages(&mut said, 0.1);
        let roles: Vec<_> = said.iter().map(|message| &*message.role).collect();
        assert_eq!(roles, ["system", "user"]);
    }

    #[test]
    fn characters_stay_whole() {
        for share in 0..100 {
            let short = text(Cow::Borrowed("日本語のテキスト"), f64::from(share) / 100.0);
            assert!(!short.contains('\u{fffd}') && short.len() <= 24, "{short}");
        }
    }
}
