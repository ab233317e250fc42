//! The report templates: a table each.

use super::walk::{Field, Kind, Template};
use crate::render::{Column, Layout};

/// `metric`: one number with its dimensions. The walkthrough's text shows
/// nothing of the monitored resource.
pub const METRIC: Template = Template {
    fields: &[
        Field { number: 1, kind: Kind::Value },
        Field { number: 2, kind: Kind::Map },
        Field { number: 3, kind: Kind::String },
        Field { number: 4, kind: Kind::Map },
    ],
    layout: Layout {
        call: "HandleMetric",
        template: "metric",
        columns: &[
            Column { label: "Value", key: "value" },
            Column { label: "Dimensions", key: "dimensions" },
            Column { label: "", key: "monitored_resource_type" },
            Column { label: "", key: "monitored_resource_dimensions" },
        ],
    },
};
