//! Endpoints as of the stream's position: who gets an event, and with which sequence number.

use std::collections::BTreeMap;

/// Events that only an endpoint that names them gets.
const NAMED_ONLY: [&str; 3] = ["post.updated", "comment.updated", "endpoint.disabled"];

/// One endpoint as the stream knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Names, `*`, or `post.*` and its like.
    pub(crate) events: Vec<String>,
    /// Only events of this portal (its mapped id as text).
    pub(crate) portal: Option<String>,
    /// The last sequence number that was allotted.
    pub(crate) sequence: i64,
}

impl Route {
    fn wants(&self, event: &str, portal: Option<&str>) -> bool {
        if self.portal.is_some() && self.portal.as_deref() != portal {
            return false;
        }
        self.events.iter().any(|pattern| match pattern.as_str() {
            "*" => !NAMED_ONLY.contains(&event),
            pattern => match pattern.strip_suffix(".*") {
                Some(family) => event.strip_prefix(family).is_some_and(|rest| rest.starts_with('.')),
                None => pattern == event,
            },
        })
    }
}

/// An endpoint and the sequence number that an event has there.
pub(crate) type Routed = (i64, i64);

/// All endpoints as of the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    routes: BTreeMap<i64, Route>,
}

impl Routes {
    pub(crate) fn new(routes: impl IntoIterator<Item = (i64, Route)>) -> Self {
        Self { routes: routes.into_iter().collect() }
    }

    /// Allots a sequence number to every endpoint that wants the event.
    pub(crate) fn route(&mut self, event: &str, portal: Option<&str>) -> Vec<Routed> {
        self.routes
            .iter_mut()
            .filter(|(_, route)| route.wants(event, portal))
            .map(|(endpoint, route)| {
                route.sequence += 1;
                (*endpoint, route.sequence)
            })
            .collect()
    }

    /// The same, but not to the endpoint that the event is about.
    pub(crate) fn route_but(&mut self, event: &str, portal: Option<&str>, endpoint: i64) -> Vec<Routed> {
        let own = self.routes.remove(&endpoint);
        let routed = self.route(event, portal);
        self.routes.extend(own.map(|route| (endpoint, route)));
        routed
    }

    /// Allots a sequence number to one endpoint, whatever it subscribes to.
    pub(crate) fn route_to(&mut self, endpoint: i64) -> Vec<Routed> {
        self.routes
            .get_mut(&endpoint)
            .map(|route| {
                route.sequence += 1;
                (endpoint, route.sequence)
            })
            .into_iter()
            .collect()
    }

    /// Adds an endpoint or changes what it wants; its sequence goes on.
    pub(crate) fn put(&mut self, endpoint: i64, events: Vec<String>, portal: Option<String>) {
        let sequence = self.routes.get(&endpoint).map_or(0, |route| route.sequence);
        self.routes.insert(endpoint, Route { events, portal, sequence });
    }

    pub(crate) fn remove(&mut self, endpoint: i64) {
        self.routes.remove(&endpoint);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &Route)> {
        self.routes.iter().map(|(endpoint, route)| (*endpoint, route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(events: &[&str], portal: Option<&str>) -> Routes {
        let mut routes = Routes::default();
        routes.put(1, events.iter().map(|event| (*event).into()).collect(), portal.map(Into::into));
        routes
    }

    #[test]
    fn what_an_endpoint_wants() {
        let table: [(&[&str], &str, bool); 11] = [
            (&["*"], "vote.created", true),
            (&["*"], "roadmap.published", true),
            (&["*"], "post.updated", false),
            (&["*"], "comment.updated", false),
            (&["*"], "endpoint.disabled", false),
            (&["*", "post.updated"], "post.updated", true),
            (&["post.*"], "post.updated", true),
            (&["post.*"], "vote.created", false),
            (&["post.*"], "postal.created", false),
            (&["vote.created"], "vote.deleted", false),
            (&[], "vote.created", false),
        ];
        for (events, event, wanted) in table {
            assert_eq!(!routes(events, None).route(event, None).is_empty(), wanted, "{events:?} {event}");
        }
    }

    #[test]
    fn an_endpoint_of_a_portal_gets_nothing_else_and_nothing_without_portal() {
        let mut routes = routes(&["*"], Some("4"));
        assert_eq!(routes.route("vote.created", Some("4")), [(1, 1)]);
        assert!(routes.route("vote.created", Some("5")).is_empty());
        assert!(routes.route("vote.created", None).is_empty());
        assert_eq!(routes.route_to(1), [(1, 2)]);
    }

    #[test]
    fn a_changed_endpoint_keeps_its_sequence() {
        let mut routes = routes(&["*"], None);
        assert_eq!(routes.route("vote.created", None), [(1, 1)]);
        routes.put(1, vec!["vote.*".into()], None);
        assert_eq!(routes.route("vote.created", None), [(1, 2)]);
        routes.remove(1);
        assert!(routes.route("vote.created", None).is_empty());
    }
}
