package mount

// Endpoint is where a server of a volume listens, as far as the volume says: what a firewall has to let through.
type Endpoint struct {
	// Hosts are names and addresses of one server; a client may use any of them.
	Hosts []string
	// Ports are of TCP.
	Ports []uint16
}
