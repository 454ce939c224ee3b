// Package csi mounts volumes of CSI drivers that others wrote, by their node plugin's socket: Stage and Publish in order, Unpublish and
// Unstage in the other one, into directories of its own that no sandbox sees. What was begun is written down before it is, so that it is
// undone by whoever comes later, also after this process or the plugin was killed. It does not know where a volume will be attached, has
// no controller and makes no volume: a driver that must attach volumes to nodes first is refused.
package csi
