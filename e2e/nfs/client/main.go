// Command client is what a tenant brings: an NFS client of its own, without any privilege. It lists an export of a server.
//
//	client SERVER EXPORT
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/willscott/go-nfs-client/nfs"
	"github.com/willscott/go-nfs-client/nfs/rpc"
)

func main() {
	if err := list(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func list(server, export string) error {
	m, err := nfs.DialMount(server, time.Second)
	if err != nil {
		return err
	}
	defer m.Close()
	v, err := m.Mount(export, rpc.NewAuthUnix("tenant", 0, 0).Auth())
	if err != nil {
		return err
	}
	defer v.Close()
	entries, err := v.ReadDirPlus("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fmt.Println(e.FileName)
	}
	return nil
}
