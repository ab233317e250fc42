//! Counters of instances by template.

use std::sync::Arc;

use super::templates::REPORTS;
use crate::metrics::{Counter, Export, Family, Page};
use crate::template::Template;

/// A counter for each report template.
#[derive(Debug)]
pub struct Instances(Family<{ REPORTS.len() }>);

impl Default for Instances {
    fn default() -> Self {
        Self(Family::new(
            "mygrpcadapter_instances_total",
            "Instances taken and acknowledged.",
            "template",
            REPORTS.map(|template| template.name),
        ))
    }
}

impl Instances {
    /// The counter of a template; an unexported one for other templates.
    pub fn of(&self, template: &Template) -> Arc<Counter> {
        let at = REPORTS.iter().position(|known| known.name == template.name);
        at.map_or_else(Arc::default, |at| Arc::clone(self.0.at(at)))
    }
}

impl Export for Instances {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.0.export(page);
        None
    }
}
