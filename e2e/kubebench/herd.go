package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/e2e/figures"
)

// patience is how long the herd is given to get what it asked for, refusals included.
const patience = 5 * time.Minute

// herd lets many creates loose on a small pool at once, each at one of the replicas. Who is refused comes back when he was told to.
func herd(ctx context.Context, cfg config, c *cluster) error {
	fmt.Println(figures.Machine())
	key, err := c.key(ctx, cfg.release)
	if err != nil {
		return err
	}
	a := newAPI(cfg.urls, key)
	if err := errors.Join(c.set(ctx, "herd", cfg.pool), c.stocked(ctx, "herd", cfg.pool, patience)); err != nil {
		return err
	}
	before := processor()
	begin := time.Now()
	answers := loose(ctx, a, cfg.creates)
	took := time.Since(begin)
	faults := improper(answers, answerTime)
	ids := held(answers)
	faults = append(faults, doubles(ids)...)
	if len(ids) != cfg.creates {
		faults = append(faults, fmt.Sprintf("%d of %d creates ended with a sandbox within %s", len(ids), cfg.creates, patience))
	}
	busy(before, took, cfg.creates)
	tell(answers, cfg, took)
	more, err := known(ctx, a, c, ids)
	if err != nil {
		return err
	}
	faults = append(faults, more...)
	if more, err = gone(ctx, a, c, ids); err != nil {
		return err
	}
	faults = append(faults, more...)
	if more, err = shared(ctx, a); err != nil {
		return err
	}
	faults = append(faults, more...)
	for _, f := range faults[:min(len(faults), 50)] {
		fmt.Println("FAULT", f)
	}
	if len(faults) > 0 {
		return fmt.Errorf("the herd found %d faults", len(faults))
	}
	fmt.Println("herd: none handed out twice, none lost, none left over")
	return errors.Join(c.set(ctx, "herd", 0))
}

// loose makes n creates at once and returns every answer to them.
func loose(ctx context.Context, a *api, n int) (out []answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		start = make(chan struct{})
	)
	for i := range n {
		all.Go(func() {
			<-start
			for turn := i; ; turn++ {
				got := a.create(ctx, a.replica(turn), "herd", "")
				mu.Lock()
				out = append(out, got)
				mu.Unlock()
				seconds, err := strconv.Atoi(got.RetryAfter)
				if got.Status == http.StatusCreated || err != nil {
					return
				}
				select {
				case <-time.After(time.Duration(seconds) * time.Second):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	close(start)
	all.Wait()
	return out
}

// tell prints what came of a herd.
func tell(answers []answer, cfg config, took time.Duration) {
	by, warm := map[int]int{}, []time.Duration{}
	for _, a := range answers {
		by[a.Status]++
		if a.Status == http.StatusCreated {
			warm = append(warm, a.Took)
		}
	}
	fmt.Printf("%d creates at once at %d replicas, a pool of %d: answers %v, all done after %s\n", cfg.creates, len(cfg.urls), cfg.pool, by, took.Round(time.Millisecond))
	heading("herd")
	row("create, from its request to its sandbox", warm)
}

// known asks for every sandbox at another replica than the last, and compares with the store.
func known(ctx context.Context, a *api, c *cluster, ids []string) ([]string, error) {
	var (
		mu    sync.Mutex
		seen  = map[string]int{}
		group errgroup.Group
	)
	group.SetLimit(64)
	for i, id := range ids {
		group.Go(func() error {
			worst := http.StatusOK
			for replica := range a.urls { // one of them has made it, the others have not
				if got := a.call(ctx, a.replica(i+replica), http.MethodGet, "/sandboxes/"+id, ""); got.Status != http.StatusOK {
					worst = got.Status
				}
			}
			mu.Lock()
			defer mu.Unlock()
			seen[id] = worst
			return nil
		})
	}
	_ = group.Wait()
	claimed, err := c.claimed(ctx, "herd")
	if err != nil {
		return nil, err
	}
	faults := lost(ids, seen, claimed)
	// What was claimed for a request that was refused is undone on its own.
	if err := poll(ctx, time.Minute, func() error {
		claimed, err := c.claimed(ctx, "herd")
		if extra := nobodys(ids, claimed); len(extra) > 0 {
			return errors.New(extra[0])
		}
		return err
	}); err != nil {
		faults = append(faults, err.Error())
	}
	return faults, nil
}

// gone ends every sandbox and looks for what is left.
func gone(ctx context.Context, a *api, c *cluster, ids []string) ([]string, error) {
	var (
		mu     sync.Mutex
		faults []string
		group  errgroup.Group
	)
	group.SetLimit(64)
	for i, id := range ids {
		group.Go(func() error {
			if err := a.kill(ctx, a.replica(i), id); err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults = append(faults, fmt.Sprintf("kill %s: %v", id, err))
			}
			return nil
		})
	}
	_ = group.Wait()
	var rest []string
	err := poll(ctx, 2*time.Minute, func() error {
		claimed, err := c.claimed(ctx, "herd")
		if err != nil {
			return err
		}
		listed := map[string][]string{}
		for i := range a.urls {
			if listed[fmt.Sprintf("replica %d", i+1)], err = a.list(ctx, i); err != nil {
				return err
			}
		}
		if rest = left(listed, claimed); len(rest) > 0 {
			return errors.New(rest[0])
		}
		return nil
	})
	if err != nil && len(rest) == 0 {
		return nil, err
	}
	return append(faults, rest...), nil
}

// shared are the initialisations that daemons have refused because they had an owner already.
func shared(ctx context.Context, a *api) ([]string, error) {
	text, err := a.scrape(ctx, "http://"+statsAddr)
	if err != nil {
		return nil, err
	}
	var s stats
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, err
	}
	fmt.Printf("daemons: %d initialisations, %d refused\n", s.Inits, s.Refused)
	if s.Refused > 0 {
		return []string{fmt.Sprintf("%d daemons were initialised by two", s.Refused)}, nil
	}
	return nil, nil
}
