package oss

import (
	"errors"
	"io"
	"net"
	"sync"
)

// socks takes the connections of a client whose HTTP library can speak to a Unix socket only by way of SOCKS 5. Where the client
// wants to go is not asked: there is one place.
type socks struct{ net.Listener }

func (s socks) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &socksConn{Conn: c}, nil
}

type socksConn struct {
	net.Conn
	once sync.Once
	err  error
}

// Read greets first, in the goroutine that serves the connection: nobody else waits for a client that says nothing.
func (c *socksConn) Read(p []byte) (int, error) {
	c.once.Do(func() { c.err = greet(c.Conn) })
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

var errSOCKS = errors.New("not a SOCKS 5 connect")

// greet is the server's part of RFC 1928, without authentication: the socket's directory is what keeps others away.
func greet(c io.ReadWriter) error {
	var b [257]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return err
	}
	if b[0] != 5 {
		return errSOCKS
	}
	if _, err := io.ReadFull(c, b[:b[1]]); err != nil { // how it could authenticate
		return err
	}
	if _, err := c.Write([]byte{5, 0}); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b[:5]); err != nil { // the last one is the first of the address
		return err
	}
	if b[0] != 5 || b[1] != 1 {
		return errSOCKS
	}
	const port = 2
	rest, known := map[byte]int{1: 3 + port, 3: int(b[4]) + port, 4: 15 + port}[b[3]]
	if !known {
		return errSOCKS
	}
	if _, err := io.ReadFull(c, b[:rest]); err != nil {
		return err
	}
	_, err := c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return err
}
