// Package clients keeps the FUSE clients of volumes in another container than the agent's: what they serve goes on when the agent is
// killed or replaced, and their memory is bounded apart from its own. It holds both ends of a Unix socket that only those two containers
// share: Server starts clients where it runs, and hands their mounts over as descriptors of trees that are mounted nowhere; Driver is
// what the agent's node sees of it. It knows nothing of sandboxes, targets or journals.
package clients
