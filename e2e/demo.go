package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// demoSDK is the pin whose packages run the example.
const demoSDK = "2.63.0"

// demo runs demo/example.py with the real package and shows what it left in the bucket.
func demo(ctx context.Context, cfg config) (err error) {
	fmt.Println("== an S3 server and a gateway of our own, on free ports")
	w, err := world.Start(ctx, cfg.world())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWorld(ctx, w)) }()
	fmt.Printf("gateway %s, object store %s, bucket %s\n\n== e2e/demo/example.py with e2b-code-interpreter\n", w.URL, w.Store.URL, world.Bucket)
	cmd := exec.CommandContext(ctx, filepath.Join(cfg.cache, "python", demoSDK, "bin", "python"), "e2e/demo/example.py")
	cmd.Env = append(os.Environ(), w.Env()...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the example: %w; the gateway's log ends:\n%s", err, logTail(w))
	}
	return bucket(ctx, w.Store)
}

// bucket asks the store itself, not the volume, for what the sandbox wrote.
func bucket(ctx context.Context, store *world.Store) error {
	fmt.Println("\n== what the object store holds now that the sandbox is gone")
	objects, err := store.Objects(ctx, "data-subPath/")
	if err != nil {
		return err
	}
	found := false
	for _, o := range objects {
		fmt.Printf("%6d bytes  s3://%s/%s\n", o.Size, world.Bucket, o.Key)
		found = found || o.Key == "data-subPath/hello.txt"
	}
	if !found {
		return errors.New("the sandbox's file is no object in the bucket")
	}
	text, err := store.Read(ctx, "data-subPath/hello.txt")
	if err != nil {
		return err
	}
	fmt.Printf("hello.txt: %s\n\n", text)
	return nil
}
