//! The keys of a document: none is unknown, none a duplicate.

use jsonc_parser::ast::{Object, Value};

use crate::checker::Checker;
use crate::document::Document;
use crate::excerpt::excerpt;
use crate::path::Way;
use crate::problem::{Cause, Position};
use crate::schema::Shape;

/// Reports each duplicate key of an object, and each unknown key.
pub(crate) fn check_keys(document: &Document<'_>, shape: &Shape, checker: &mut Checker<'_>) {
    check_value(document, document.root(), Some(shape), &Way::Top, checker);
}

fn check_value(
    document: &Document<'_>,
    value: &Value<'_>,
    shape: Option<&Shape>,
    way: &Way<'_>,
    checker: &mut Checker<'_>,
) {
    match value {
        Value::Object(object) => check_object(document, object, shape, way, checker),
        Value::Array(array) => {
            let element_shape = shape.and_then(Shape::element);
            for (index, element) in array.elements.iter().enumerate() {
                check_value(document, element, element_shape, &Way::Index(way, index), checker);
            }
        }
        _ => {}
    }
}

fn check_object(
    document: &Document<'_>,
    object: &Object<'_>,
    shape: Option<&Shape>,
    way: &Way<'_>,
    checker: &mut Checker<'_>,
) {
    let mut seen = std::collections::HashMap::new();
    for property in &object.properties {
        let key = property.name.as_str();
        let start = property.range.start;
        let here = Way::Key(way, key);
        if let Some(first) = seen.insert(key, start) {
            let first = || Position::of(document.text(), first).line;
            let cause = || Cause::DuplicateKey { key: excerpt(key), first: first() };
            checker.report_at(start, || (here.path(), cause()));
            continue;
        }
        let member = shape.and_then(|shape| shape.member(key));
        if let (Some(shape), None) = (shape.filter(|shape| shape.is_object()), member) {
            checker.report_at(start, || (here.path(), Cause::unknown_key(key, shape.keys())));
            continue;
        }
        check_value(document, &property.value, member, &here, checker);
    }
}
