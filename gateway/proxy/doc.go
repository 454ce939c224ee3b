// Package proxy is the data plane: it carries requests to the ports of sandboxes, found by host name (`port-id.domain`) or, on
// hosts that no tenant can own, by the headers that SDKs send. It streams, upgrades and resets; it does not know what the
// requests mean, who sends them, or where sandboxes come from. The daemon in the sandbox checks its own tokens.
package proxy
