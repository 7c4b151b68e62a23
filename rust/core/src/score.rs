//! `/score`, as vLLM has it, in terms of `/rerank`, which is what engines have.

use serde::{Deserialize, Serialize};

use crate::error::Error;

#[cfg(test)]
mod tests;

/// Pairs that are ranked one by one; more are better asked with one query.
pub(crate) const MAX_PAIRS: usize = 64;

/// What a client asks for.
#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(alias = "data_1", alias = "queries")]
    text_1: Option<Texts>,
    #[serde(alias = "data_2", alias = "documents", alias = "items")]
    text_2: Option<Texts>,
    /// The engine neither cuts inputs nor knows another activation than the model's.
    truncate_prompt_tokens: Option<serde::de::IgnoredAny>,
    #[serde(alias = "activation", alias = "softmax")]
    use_activation: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// What an engine is asked for.
#[derive(Debug, Serialize)]
struct Rerank<'a> {
    model: &'a str,
    query: &'a str,
    documents: &'a [String],
}

/// What an engine answers.
#[derive(Debug, Deserialize)]
struct Reranked {
    results: Vec<Ranked>,
    #[serde(default)]
    usage: Tokens,
}

#[derive(Debug, Deserialize)]
struct Ranked {
    index: usize,
    relevance_score: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Tokens {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    total_tokens: u64,
}

/// What the client gets.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Row>,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Row {
    index: usize,
    object: &'static str,
    score: f64,
}

#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "as the API spells them")]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
    completion_tokens: u64,
}

/// A request for scores: the rerankings that it takes, and what they have told so far.
#[derive(Debug)]
pub(crate) struct Scoring {
    queries: Vec<String>,
    documents: Vec<String>,
    scores: Vec<f64>,
    usage: Usage,
}

/// An engine's answer that is no reranking of what it was asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it did not rank every document once")]
pub(crate) struct NotRanked;

impl Scoring {
    /// One query for all documents, or as many as there are documents.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for anything else.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Error> {
        let asked: Asked = serde_json::from_slice(body).map_err(|error| {
            invalid(
                "text_1",
                format!("`text_1` and `text_2` must be strings or lists of strings: {error}"),
            )
        })?;
        if asked.truncate_prompt_tokens.is_some() {
            return Err(invalid(
                "truncate_prompt_tokens",
                "inputs are not cut: shorten them, or leave it out".into(),
            ));
        }
        if asked.use_activation.is_some() {
            return Err(invalid(
                "use_activation",
                "scores are what the model gives: leave it out".into(),
            ));
        }
        let list = |texts: Option<Texts>, param| match texts.map(Texts::into_list) {
            Some(texts) if !texts.is_empty() => Ok(texts),
            _ => Err(invalid(param, format!("`{param}` must have at least one text"))),
        };
        let queries = list(asked.text_1, "text_1")?;
        let documents = list(asked.text_2, "text_2")?;
        if queries.len() > 1 && queries.len() != documents.len() {
            let (queries, documents) = (queries.len(), documents.len());
            return Err(invalid(
                "text_1",
                format!(
                    "there are {queries} texts for {documents}: give one for all, or one for each"
                ),
            ));
        }
        if queries.len() > MAX_PAIRS {
            return Err(invalid(
                "text_1",
                format!(
                    "more than {MAX_PAIRS} pairs: split the request, or give one text for all of `text_2`"
                ),
            ));
        }
        Ok(Self { queries, documents, scores: Vec::new(), usage: Usage::default() })
    }

    /// The body of the next reranking; `None` once all scores are known.
    pub(crate) fn next(&self, model: &str) -> Option<Vec<u8>> {
        let documents = self.asked();
        let query = match self.queries.as_slice() {
            [only] => only,
            several => several.get(self.scores.len())?,
        };
        if documents.is_empty() {
            return None;
        }
        serde_json::to_vec(&Rerank { model, query, documents }).ok()
    }

    /// The documents of the next reranking.
    fn asked(&self) -> &[String] {
        let begin = self.scores.len();
        let end = if self.queries.len() == 1 { self.documents.len() } else { begin + 1 };
        self.documents.get(begin..end).unwrap_or_default()
    }

    /// Take the answer to the last [`Scoring::next`].
    pub(crate) fn take(&mut self, answer: &[u8]) -> Result<(), NotRanked> {
        let reranked: Reranked = serde_json::from_slice(answer).map_err(|_| NotRanked)?;
        // The engine puts the best first.
        let mut scores = vec![None; self.asked().len()];
        for Ranked { index, relevance_score } in reranked.results {
            let score = scores.get_mut(index).ok_or(NotRanked)?;
            *score = Some(relevance_score);
        }
        let scores = scores.into_iter().collect::<Option<Vec<f64>>>().ok_or(NotRanked)?;
        self.scores.extend(scores);
        self.usage.prompt_tokens += reranked.usage.prompt_tokens;
        self.usage.total_tokens += reranked.usage.total_tokens;
        Ok(())
    }

    /// The answer for the client; `created` is in seconds.
    pub(crate) fn answer(self, id: &str, model: &str, created: u64) -> Vec<u8> {
        let scores = self.scores.into_iter().enumerate();
        let data = scores.map(|(index, score)| Row { index, object: "score", score }).collect();
        let answer = Answer { id, object: "list", created, model, data, usage: self.usage };
        // Strings and numbers always serialise.
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}

fn invalid(param: &'static str, reason: String) -> Error {
    Error::InvalidParameter { param, reason }
}
