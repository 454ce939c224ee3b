// Package channel is the publish channel, both ends: CSI's Identity and Node services over mutual TLS between whoever may publish
// (gateway, controller) and the agent in a sandbox's pod. The pod's network is its tenant's too, so that the agent proves with a
// certificate which sandbox it is of before it is told anything, and listens to nobody without a certificate of ours. It knows
// neither Kubernetes nor what a mount is made of.
package channel

import "errors"

var (
	// ErrUnreachable is an agent that does not answer, or answers as somebody else.
	ErrUnreachable = errors.New("the agent cannot be reached")
	// ErrNotReady is an agent to which its sandbox has not handed its mount namespace over. It is an ErrUnreachable too.
	ErrNotReady = errors.New("the sandbox container has not handed its mount namespace over")
	// ErrTooOld is an agent that does not speak this version's protocol.
	ErrTooOld = errors.New("the agent's image is too old for this gateway: set a newer csiagent image under key csi of ConfigMap sandbox-injection-config, then create a new sandbox")
)

// Protocol is the version of what is spoken here; an agent tells its own in GetPluginInfo. It grows when an older agent would
// misunderstand something.
const Protocol = 2

// What an agent must speak at the least: for anything, and for UnpublishIdle, which an older one would take for an Unpublish.
const (
	leastProtocol = 1
	idleProtocol  = 2
)

// agentName is the agent's name as a CSI plugin.
const agentName = "agent.sandgate.dev"

// Keys of the manifest in GetPluginInfo.
const (
	manifestProtocol = "protocol"
	manifestHandover = "handover" // "ready" or "waiting"
)

const (
	handedOver = "ready"
	waiting    = "waiting"
)

// unpublishKey says how an unpublish is meant, beyond what CSI can say.
const (
	unpublishKey  = "x-sandgate-unpublish"
	unpublishIdle = "idle" // not when the volume is in use
)

// requestKey carries the ID of the request that a call is part of, for the agent's log.
const requestKey = "x-request-id"
