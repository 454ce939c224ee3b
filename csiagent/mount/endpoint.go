package mount

// Endpoint is where the server of a volume listens, as far as the volume says: what a firewall has to let through. The zero value is that of
// a volume without a server.
type Endpoint struct {
	// Hosts are names and addresses of one server; a client may use any of them.
	Hosts []string
	// Ports are of TCP.
	Ports []uint16
}
