//! Figures, as a table or as JSON.

/// What was measured.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What is wanted: at least, or at most.
    pub(crate) wanted: Option<Wanted>,
    /// What else belongs to it.
    pub(crate) beside: String,
}

#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Wanted {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, wanted: Option<Wanted>) -> Self {
        Self { name: name.into(), value, unit, wanted, beside: String::new() }
    }

    pub(crate) fn beside(self, beside: impl Into<String>) -> Self {
        Self { beside: beside.into(), ..self }
    }
}

pub(crate) fn print(figures: &[Figure]) {
    println!("{:<52} {:>12} {:<8} {:>14}  beside", "figure", "measured", "", "wanted");
    for Figure { name, value, unit, wanted, beside } in figures {
        let wanted = wanted.map_or(String::new(), |wanted| {
            let (sign, bound) = match wanted {
                Wanted::AtLeast(least) => ('≥', least),
                Wanted::AtMost(most) => ('≤', most),
            };
            format!("{sign} {bound} {}", if wanted.met(*value) { "yes" } else { "NO" })
        });
        println!("{name:<52} {:>12} {unit:<8} {wanted:>14}  {beside}", digits(*value));
    }
}

pub(crate) fn json(figures: &[Figure]) {
    let figures: Vec<_> = figures
        .iter()
        .map(|Figure { name, value, unit, wanted, beside }| {
            let (least, most) = match wanted {
                Some(Wanted::AtLeast(least)) => (Some(least), None),
                Some(Wanted::AtMost(most)) => (None, Some(most)),
                None => (None, None),
            };
            serde_json::json!({
                "name": name, "value": value, "unit": unit, "at_least": least, "at_most": most, "beside": beside,
            })
        })
        .collect();
    println!("{}", serde_json::to_string_pretty(&figures).unwrap());
}

fn digits(value: f64) -> String {
    format!("{value:.*}", if value < 100.0 { 2 } else { 0 })
}
