package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/e2e/figures"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

const (
	scratch  = `,"volumeMounts":[{"name":"scratch","path":"/data"}]`
	parallel = 32 // creates under way in the parallel row
	wave     = 30 // creates at once in the storm
)

// stage is what the rows are measured on.
type stage struct {
	cfg config
	api *api
	*cluster

	raw []*v1alpha1.Sandbox // objects that are nobody's, for writes beside the product
}

// bench prints the figures.
func bench(ctx context.Context, cfg config, c *cluster) error {
	version, err := c.version()
	if err != nil {
		return err
	}
	fmt.Println(figures.Machine())
	fmt.Printf("Kubernetes %s, %d gateways, 1 controller, API server, etcd without fsync, kwok, stubs and load all on these cores\n", version, len(cfg.urls))
	key, err := c.key(ctx, cfg.release)
	if err != nil {
		return err
	}
	s := &stage{cfg: cfg, cluster: c, api: newAPI(cfg.urls, key)}
	if err := s.fill(ctx, "small", cfg.small); err != nil {
		return err
	}
	if err := s.objects(ctx); err != nil {
		return err
	}
	var small, large []time.Duration
	for _, r := range []struct {
		name string
		run  func() error
	}{
		{"create", func() (err error) { small, err = s.steady(ctx, "small", cfg.small, ""); return err }},
		{"tmpfs", func() error { _, err := s.steady(ctx, "small", cfg.small, scratch); return err }},
		{"storm", func() error { return s.storm(ctx) }},
		{"large", func() (err error) {
			if err := errors.Join(c.set(ctx, "small", 0), s.fill(ctx, "large", cfg.large)); err != nil {
				return err
			}
			large, err = s.steady(ctx, "large", cfg.large, "")
			return err
		}},
		{"parallel", func() error { return s.parallel(ctx) }},
	} {
		if !cfg.rows[r.name] {
			continue
		}
		if err := r.run(); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if len(small) > 0 && len(large) > 0 {
		fmt.Printf("\na pool of %d against one of %d, p50: %.2f times\n", cfg.large, cfg.small, float64(figures.Percentile(large, 50))/float64(figures.Percentile(small, 50)))
	}
	fmt.Println("load at the end", figures.Load())
	return nil
}

// fill makes a pool and waits until it is full, and says how fast that was.
func (s *stage) fill(ctx context.Context, pool string, n int) error {
	begin := time.Now()
	if err := errors.Join(s.set(ctx, pool, n), s.stocked(ctx, pool, n, 15*time.Minute)); err != nil {
		return err
	}
	took := time.Since(begin)
	fmt.Printf("pool %s of %d filled in %s, %.0f a second\n", pool, n, took.Round(time.Millisecond), float64(n)/took.Seconds())
	return s.rest(ctx)
}

// rest lets what has just been made be connected to.
func (s *stage) rest(ctx context.Context) error {
	select {
	case <-time.After(3 * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// objects makes what raw writes are made to: as large as a real Sandbox, in a namespace where no controller of ours is.
func (s *stage) objects(ctx context.Context) error {
	all, err := s.sandboxes(ctx, "small")
	if err != nil {
		return err
	}
	err = s.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: rawNamespace}})
	if client.IgnoreAlreadyExists(err) != nil {
		return err
	}
	for i := range parallel {
		like := all[i%len(all)]
		sb := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: rawNamespace, Name: fmt.Sprintf("raw-%d", i)}, Spec: like.Spec}
		sb.Labels = maps.Clone(like.Labels)
		if err := client.IgnoreNotFound(s.client.Delete(ctx, sb.DeepCopy())); err != nil {
			return err
		}
		if err := s.client.Create(ctx, sb); err != nil {
			return err
		}
		s.raw = append(s.raw, sb)
	}
	return nil
}

// put replaces raw object i, and patch writes into it as a claim does, but for the claim, which can be written once.
func (s *stage) put(ctx context.Context, i, turn int) (time.Duration, error) {
	sb := s.raw[i]
	if sb.Annotations == nil {
		sb.Annotations = map[string]string{}
	}
	sb.Annotations["bench"] = fmt.Sprint(turn)
	begin := time.Now()
	err := s.client.Update(ctx, sb)
	return time.Since(begin), err
}

func (s *stage) patch(ctx context.Context, i, turn int) (time.Duration, error) {
	sb := s.raw[i]
	body := fmt.Appendf(nil, `{"metadata":{"resourceVersion":%q,"uid":%q,"labels":{%q:"true"},"ownerReferences":null},"spec":{"shutdownTime":%q}}`,
		sb.ResourceVersion, sb.UID, v1alpha1.LabelClaimed, time.Now().Add(time.Hour+time.Duration(turn)*time.Second).UTC().Format(time.RFC3339))
	begin := time.Now()
	err := s.client.Patch(ctx, sb, client.RawPatch("application/merge-patch+json", body))
	return time.Since(begin), err
}

// steady creates one sandbox after the other at an even pace, each at the next replica, and kills it. Beside each create it writes
// to the API server itself.
func (s *stage) steady(ctx context.Context, pool string, size int, more string) (took []time.Duration, err error) {
	if err := s.stocked(ctx, pool, size, 5*time.Minute); err != nil {
		return nil, err
	}
	before, err := s.metrics(ctx)
	if err != nil {
		return nil, err
	}
	used, begin := processor(), time.Now()
	tick := time.NewTicker(s.cfg.pace)
	defer tick.Stop()
	var puts, patches []time.Duration
	for i := range s.cfg.n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		got := s.api.create(ctx, s.api.replica(i), pool, more)
		if err := got.as(201); err != nil {
			return nil, err
		}
		took = append(took, got.Took)
		if err := s.api.kill(ctx, s.api.replica(i), got.ID); err != nil {
			return nil, err
		}
		put, err := s.put(ctx, i%parallel, i)
		if err != nil {
			return nil, err
		}
		patched, err := s.patch(ctx, i%parallel, i)
		if err != nil {
			return nil, err
		}
		puts, patches = append(puts, put), append(patches, patched)
	}
	spent := time.Since(begin)
	heading(fmt.Sprintf("pool of %d, one create per %s, refill running", size, s.cfg.pace))
	name := "warm create"
	if more != "" {
		name += ", one tmpfs volume"
	}
	row(name, took)
	row("raw PUT of a Sandbox beside it", puts)
	row("raw PATCH of a Sandbox beside it, as a claim's", patches)
	busy(used, spent, s.cfg.n)
	if err := s.stocked(ctx, pool, size, 5*time.Minute); err != nil {
		return nil, err
	}
	after, err := s.metrics(ctx)
	if err != nil {
		return nil, err
	}
	own, now := writes(before), writes(after)
	now["PUT sandboxes"] -= float64(s.cfg.n) // our own
	now["PATCH sandboxes"] -= float64(s.cfg.n)
	written(own, now, s.cfg.n)
	return took, nil
}

// storm lets waves of creates loose on a small pool, evenly at all replicas, each on full stock.
func (s *stage) storm(ctx context.Context) error {
	before, err := s.conflicts(ctx)
	if err != nil {
		return err
	}
	var all []time.Duration
	for len(all) < s.cfg.n {
		if err := s.stocked(ctx, "small", s.cfg.small, 5*time.Minute); err != nil {
			return err
		}
		took, ids, err := s.burst(ctx, wave, wave, "small")
		if err != nil {
			return err
		}
		all = append(all, took...)
		if err := s.killAll(ctx, ids); err != nil {
			return err
		}
	}
	after, err := s.conflicts(ctx)
	if err != nil {
		return err
	}
	heading(fmt.Sprintf("waves of %d creates at %d replicas on a pool of %d", wave, len(s.api.urls), s.cfg.small))
	row("create in a storm", all)
	fmt.Printf("  conflicts: %.2f for each create\n", (after-before)/float64(len(all)))
	return nil
}

// conflicts is how often the replicas have met stock that another one had taken.
func (s *stage) conflicts(ctx context.Context) (out float64, err error) {
	for _, url := range s.cfg.metrics {
		text, err := s.api.scrape(ctx, url+"/metrics")
		if err != nil {
			return 0, err
		}
		out += sum(text, "sandgate_pool_conflicts_total", "pool=")
	}
	return out, nil
}

// burst makes n creates, so many at a time.
func (s *stage) burst(ctx context.Context, n, atOnce int, pool string) ([]time.Duration, []string, error) {
	took, ids := make([]time.Duration, n), make([]string, n)
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error {
			got := s.api.create(ctx, s.api.replica(i), pool, "")
			took[i], ids[i] = got.Took, got.ID
			return got.as(201)
		})
	}
	return took, ids, group.Wait()
}

func (s *stage) killAll(ctx context.Context, ids []string) error {
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, id := range ids {
		group.Go(func() error { return s.api.kill(ctx, s.api.replica(i), id) })
	}
	return group.Wait()
}

// parallel compares the rate of creates with that of raw writes, both with as many under way.
func (s *stage) parallel(ctx context.Context) error {
	if err := s.fill(ctx, "large", s.cfg.large); err != nil {
		return err
	}
	idle, err := s.rate(ctx, s.put)
	if err != nil {
		return err
	}
	idlePatch, err := s.rate(ctx, s.patch)
	if err != nil {
		return err
	}
	used, begin := processor(), time.Now()
	took, ids, err := s.burst(ctx, s.cfg.n, parallel, "large")
	if err != nil {
		return err
	}
	spent := time.Since(begin)
	rate := float64(len(ids)) / spent.Seconds()
	beside, err := s.rate(ctx, s.put) // the pool refills still
	if err != nil {
		return err
	}
	heading(fmt.Sprintf("%d at a time, pool of %d, refill running", parallel, s.cfg.large))
	row("warm create", took)
	busy(used, spent, len(ids))
	fmt.Printf("  creates %.0f/s; raw PUT %.0f/s and raw PATCH %.0f/s with nothing beside, raw PUT %.0f/s while the pool refills: %.2f, %.2f and %.2f of them\n",
		rate, idle, idlePatch, beside, rate/idle, rate/idlePatch, rate/beside)
	return s.killAll(ctx, ids)
}

// rate is how many writes a second the API server takes.
func (s *stage) rate(ctx context.Context, write func(ctx context.Context, i, turn int) (time.Duration, error)) (float64, error) {
	const span = 5 * time.Second
	var (
		group errgroup.Group
		mu    sync.Mutex
		done  int
	)
	begin := time.Now()
	for i := range s.raw {
		group.Go(func() error {
			n := 0
			for ; time.Since(begin) < span; n++ {
				if _, err := write(ctx, i, n); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			done += n
			return nil
		})
	}
	err := group.Wait()
	return float64(done) / time.Since(begin).Seconds(), err
}
