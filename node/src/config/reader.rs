//! Takes a TOML table apart key by key; every key that nobody asked for is an error.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Report, Reported};
use super::values::Problem;

/// A table that is being read.
pub(super) struct Reader<'a> {
    /// How messages call the table: `[node]`.
    title: &'static str,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    /// The keys that have been asked for: all that there are, once reading is complete.
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(title: &'static str, table: &'a DeTable<'a>, span: Range<usize>) -> Self {
        Self {
            title,
            table,
            span,
            known: Vec::new(),
        }
    }

    /// Reads `value`, which has to be a table.
    pub(super) fn of_value(
        title: &'static str,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
        report: &mut Report<'_>,
    ) -> Result<Self, Reported> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(Self::new(title, table, value.span())),
            other => Err(report.error(
                &value.span(),
                format!("`{key}` must be a table, not {}", described(other)),
                format!("write `{title}`, and its keys below"),
            )),
        }
    }

    /// Where the table begins.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The value of `key` as it is.
    pub(super) fn raw(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// The value of a key that may be missing.
    pub(super) fn optional<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Result<Option<Spanned<T>>, Reported> {
        self.raw(key)
            .map(|value| parsed(report, key, value, parse))
            .transpose()
    }

    /// The value of a key; `default`, at the table's place, when it is missing.
    pub(super) fn or<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
        default: T,
    ) -> Result<Spanned<T>, Reported> {
        let span = self.span();
        Ok(self
            .optional(report, key, parse)?
            .unwrap_or_else(|| Spanned::new(span, default)))
    }

    /// The value of a key that must be there; `example` is a TOML value to suggest.
    pub(super) fn required<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
        example: &str,
    ) -> Result<Spanned<T>, Reported> {
        let value = self.required_raw(report, key, example)?;
        parsed(report, key, value, parse)
    }

    /// The value, as it is, of a key that must be there.
    pub(super) fn required_raw(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        example: &str,
    ) -> Result<&'a Spanned<DeValue<'a>>, Reported> {
        match self.raw(key) {
            Some(value) => Ok(value),
            None => {
                let message = format!("{} has no `{key}`", self.title);
                Err(report.error(&self.span, message, format!("add `{key} = {example}`")))
            }
        }
    }

    /// The elements of a list; none when the key is missing.
    pub(super) fn list(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        example: &str,
    ) -> Result<Vec<&'a Spanned<DeValue<'a>>>, Reported> {
        self.raw(key).map_or(Ok(Vec::new()), |value| {
            elements(report, key, value, example)
        })
    }

    /// Ends the reading: reports the keys that mean nothing here.
    pub(super) fn finish(self, report: &mut Report<'_>) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let help = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it may have: {}", self.known.join(", ")),
            };
            report.error(
                &key.span(),
                format!("{} has no key `{name}`", self.title),
                help,
            );
        }
    }
}

/// Parses the value of `key`, reporting what is wrong with it.
pub(super) fn parsed<T>(
    report: &mut Report<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
) -> Result<Spanned<T>, Reported> {
    match parse(value.get_ref()) {
        Ok(parsed) => Ok(Spanned::new(value.span(), parsed)),
        Err(Problem { what, help }) => {
            Err(report.error(&value.span(), format!("`{key}` {what}"), help))
        }
    }
}

/// The elements of a value that has to be a list.
pub(super) fn elements<'a>(
    report: &mut Report<'_>,
    key: &str,
    value: &'a Spanned<DeValue<'a>>,
    example: &str,
) -> Result<Vec<&'a Spanned<DeValue<'a>>>, Reported> {
    match value.get_ref() {
        DeValue::Array(array) => Ok(array.iter().collect()),
        other => Err(report.error(
            &value.span(),
            format!("`{key}` must be a list, not {}", described(other)),
            format!("write `{example}`"),
        )),
    }
}

/// A value's type, for a sentence.
pub(super) fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The candidate that `name` is most likely a misspelling of.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let tolerated = (name.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, candidate)| candidate)
}
