//! Requests and answers of services that speak AWS's JSON and query protocols.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Request, Service};

/// A request of the JSON protocol: the operation in a header, the parameters as the body.
pub fn json(service: Service, region: &str, version: &str, target: &str, parameters: &Value) -> Request {
    let mut request = Request::new(service, region)
        .header("content-type", format!("application/x-amz-json-{version}"))
        .header("x-amz-target", target);
    request.body = Bytes::from(parameters.to_string());
    request
}

/// A request of the query protocol: operation and parameters as a form.
pub fn form(service: Service, region: &str, version: &str, action: &str, parameters: &Value) -> Request {
    let mut fields =
        vec![("Action".to_owned(), action.to_owned()), ("Version".to_owned(), version.to_owned())];
    flatten(String::new(), parameters, &mut fields);
    let mut request = Request::new(service, region)
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
    request.body = Bytes::from(super::sign::canonical_query(&fields));
    request
}

/// Structures by dots, lists as `member.N`, maps (which are those that are called attributes) as `entry.N`.
fn flatten(name: String, value: &Value, fields: &mut Vec<(String, String)>) {
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Null => {}
        Value::Object(map) if name.ends_with("Attributes") => {
            let value_name = if name == "MessageAttributes" { "Value" } else { "value" };
            let key_name = if name == "MessageAttributes" { "Name" } else { "key" };
            for (place, (key, value)) in (1..).zip(map) {
                fields.push((below(&format!("entry.{place}.{key_name}")), key.clone()));
                flatten(below(&format!("entry.{place}.{value_name}")), value, fields);
            }
        }
        Value::Object(map) => map.iter().for_each(|(part, value)| flatten(below(part), value, fields)),
        Value::Array(elements) => {
            for (place, value) in (1..).zip(elements) {
                flatten(below(&format!("member.{place}")), value, fields);
            }
        }
        Value::String(text) => fields.push((name, text.clone())),
        other => fields.push((name, other.to_string())),
    }
}

/// What an element of an answer in XML says: its children by name, `member` and repeated ones as a list, or its text.
pub fn xml_value(node: roxmltree::Node<'_, '_>) -> Value {
    let children: Vec<_> = node.children().filter(roxmltree::Node::is_element).collect();
    if children.is_empty() {
        return node.text().unwrap_or_default().into();
    }
    if children.iter().all(|child| child.tag_name().name() == "member") {
        return children.into_iter().map(xml_value).collect();
    }
    let mut map = Map::new();
    for child in children {
        let value = xml_value(child);
        match map.get_mut(child.tag_name().name()) {
            Some(Value::Array(elements)) => elements.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
            None => {
                map.insert(child.tag_name().name().to_owned(), value);
            }
        }
    }
    map.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_become_a_form() {
        let service = Service { variable: "SNS", host: "sns", signing: "sns" };
        let parameters = json!({
            "Message": "a b&c",
            "MessageAttributes": { "k": { "DataType": "String", "StringValue": "v" } },
            "Attributes": { "a": "1" },
            "TagKeys": ["x", "y"],
            "Nothing": null,
            "Count": 3,
        });
        let body = form(service, "us-east-1", "2010-03-31", "Publish", &parameters).body;
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "Action=Publish&Attributes.entry.1.key=a&Attributes.entry.1.value=1&Count=3&Message=a%20b%26c&\
             MessageAttributes.entry.1.Name=k&MessageAttributes.entry.1.Value.DataType=String&\
             MessageAttributes.entry.1.Value.StringValue=v&TagKeys.member.1=x&TagKeys.member.2=y&Version=2010-03-31"
        );
    }

    #[test]
    fn answers_in_xml_become_json() {
        let text =
            "<R><A>1</A><L><member>x</member><member>y</member></L><B><C>2</C></B><D>3</D><D>4</D><E/></R>";
        let document = roxmltree::Document::parse(text).unwrap();
        assert_eq!(
            xml_value(document.root_element()),
            json!({ "A": "1", "L": ["x", "y"], "B": { "C": "2" }, "D": ["3", "4"], "E": "" })
        );
    }
}
