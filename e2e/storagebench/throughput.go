//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// size is how much is written and read at a time.
const size = 64 << 20

// throughput compares the volume in the sandbox with the same client, started with the same arguments, on a directory of the machine.
func throughput(ctx context.Context, s *stage) (err error) {
	m := s.bucket("fast")
	if _, err := s.publish(ctx, m); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.drop(ctx, m)) }()
	pid, err := s.client()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, "outside")
	args, err := s.arguments(pid, dir)
	if err != nil {
		return err
	}
	o, err := s.outside(ctx, args, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.end()) }()
	n := max(10, s.cfg.n/10)
	got, err := inTurns(n, func() (rates, error) { return writeRead(s.path("fast", "inside"), size) },
		func() (rates, error) { return writeRead(filepath.Join(dir, "outside"), size) })
	if err != nil {
		return err
	}
	for i, name := range []string{"write and fsync", "read"} {
		inside, outside := median(got[0], i), median(got[1], i)
		ratio := times(inside, outside)
		fmt.Printf("%-52s %5d  %4.0f MiB/s inside, %4.0f MiB/s outside (medians): %.2f of it  aim >= 0.9: %s\n",
			fmt.Sprintf("s3fs, %s of %d MiB", name, size>>20), n, inside, outside, ratio, verdict(ratio >= 0.9))
	}
	return nil
}

// rates are MiB a second: of writing with fsync, and of reading what was written through a new open.
type rates [2]float64

func median(all []rates, i int) float64 {
	var out []float64
	for _, r := range all {
		out = append(out, r[i])
	}
	return p50(out)
}

// writeRead writes a file of n bytes that nothing can guess, reads it back and removes it.
func writeRead(path string, n int64) (rates, error) {
	var out rates
	rate := func(i int, f func() error) error {
		took, err := timed(f)
		out[i] = float64(n) / (1 << 20) / took.Seconds()
		return err
	}
	block := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{byte(time.Now().UnixNano())}).Read(block) // never fails
	return out, errors.Join(rate(0, func() error { return write(path, block, n) }), rate(1, func() error { return readAll(path, n) }), os.Remove(path))
}

func write(path string, block []byte, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for left := n; left > 0; left -= int64(len(block)) {
		if _, err := f.Write(block[:min(left, int64(len(block)))]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

func readAll(path string, n int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err == nil && got != n {
		err = fmt.Errorf("read %d of %d bytes", got, n)
	}
	return err
}
