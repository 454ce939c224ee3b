package controller_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/clients"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func dataA() v1alpha1.Mount { return v1alpha1.Mount{ID: "a", Volume: "pv-a", Path: "/data/a"} }

// handedOut is a sandbox that was claimed with a mount, which the gateway has made.
func (w *world) handedOut(name string, mounts ...v1alpha1.Mount) *v1alpha1.Sandbox {
	w.t.Helper()
	s := w.full(w.set(name, 1))
	one := w.sandboxes(name)[0]
	a, _ := w.fitter.agent(w.t.Context(), &one, "")
	w.fitter.with(func(*fitter) {
		for _, m := range mounts {
			a.mounts["h-"+m.Volume+" "+m.Path] = ""
		}
	})
	sb, err := w.claim(&one, mounts...)
	require.NoError(w.t, err)
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 0 })
	return sb
}

func TestTheLastMountThatIsTakenOutLeavesTheStatusOfAnySandbox(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*v1alpha1.Sandbox){
		"mine":    func(*v1alpha1.Sandbox) {},
		"claimed": func(sb *v1alpha1.Sandbox) { claimed(sb); sb.Spec.Runtimes = sb.Spec.Runtimes[:1] },
	} {
		sb := w.sandbox(name, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = []v1alpha1.Mount{dataA()} }, change)
		w.phases(sb, "a Mounted")
		edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = nil })
		w.phases(sb)
		require.Empty(t, w.fitter.mounted(sb))
	}
}

// phases waits until a sandbox's mounts are as told: "id phase".
func (w *world) phases(sb *v1alpha1.Sandbox, want ...string) *v1alpha1.Sandbox {
	w.t.Helper()
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(w.t.Context(), clientKey(sb), sb))
		var have []string
		for _, m := range sb.Status.Mounts {
			have = append(have, m.ID+" "+m.Phase)
		}
		require.ElementsMatch(c, want, have, "%+v", sb.Status.Mounts)
	})
	return sb
}

func TestMountsOfAClaimAreToldOnceAndLeftAlone(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Create = time.Minute })
	sb := w.handedOut("pool", dataA(), v1alpha1.Mount{ID: "b", Volume: "pv-red", Path: "/data/b", SubPath: "x/${SANDBOX_ID}", ReadOnly: true})
	w.phases(sb, "a Mounted", "b Mounted")
	require.Equal(t, "2/2", sb.Status.MountSummary)
	require.Equal(t, "pv-a", sb.Status.Mounts[0].Source)
	require.Equal(t, "h-pv-a", sb.Status.Mounts[0].VolumeHandle)
	require.NotNil(t, sb.Status.Mounts[0].MountedAt)
	require.Equal(t, "pv-red:x/"+sb.Labels[v1alpha1.LabelSandboxID], sb.Status.Mounts[1].Source)
	require.True(t, sb.Status.Mounts[1].ReadOnly)
	version := sb.ResourceVersion
	w.always(2*time.Second, func() bool { return w.get(sb).ResourceVersion == version }, "looking at what works writes nothing")
	require.Zero(t, w.fitter.count("publish pv-a /data/a"))
	require.Zero(t, w.fitter.inits[sb.UID], "the gateway has done it")
}

func TestAMountIsTheRequestsBusinessAtFirst(t *testing.T) {
	w := newWorld(t)
	w.full(w.set("pool", 1))
	one := w.sandboxes("pool")[0]
	began := time.Now()
	sb, err := w.claim(&one, dataA()) // and its publish takes long
	require.NoError(t, err)
	w.phases(sb, "a Pending")
	require.Zero(t, w.fitter.count("publish pv-a /data/a"))
	w.phases(sb, "a Mounted")
	require.GreaterOrEqual(t, time.Since(began), w.times.Create-100*time.Millisecond)
}

func TestAMountThatSomebodyAddsIsNotTheRequestsBusiness(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Create = time.Hour })
	for name, first := range map[string][]v1alpha1.Mount{"with": {dataA()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			sb := w.handedOut(name, first...)
			w.eventually(func(c *assertT) { require.Equal(c, "running", w.get(sb).Status.State) })
			sb = edit(w, sb, func(sb *v1alpha1.Sandbox) {
				sb.Spec.Mounts = []v1alpha1.Mount{{ID: "b", Volume: "pv-b", Path: "/data/a"}}
			})
			w.phases(sb, "b Mounted")
			require.Equal(t, []string{"h-pv-b /data/a"}, w.fitter.mounted(sb))
		})
	}
}

func TestAMountThatSomebodyAddsDoesNotWaitForARequestsOther(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Create = time.Hour })
	w.full(w.set("pool", 1))
	one := w.sandboxes("pool")[0]
	sb, err := w.claim(&one, dataA()) // and its gateway dies
	require.NoError(t, err)
	w.phases(sb, "a Pending")
	edit(w, sb, func(sb *v1alpha1.Sandbox) {
		sb.Spec.Mounts = append(sb.Spec.Mounts, v1alpha1.Mount{ID: "b", Volume: "pv-b", Path: "/data/b"})
	})
	w.phases(sb, "a Pending", "b Mounted")
}

func TestAMountThatIsAddedDuringAChoreIsLookedAtNext(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Look = time.Hour })
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	begun, proceed := make(chan struct{}), make(chan struct{})
	w.fitter.with(func(f *fitter) {
		f.publish = func(m mount.Mount) error {
			if m.Volume == "pv-b" {
				close(begun)
				<-proceed
			}
			return nil
		}
	})
	add := func(m v1alpha1.Mount) {
		sb = edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = append(sb.Spec.Mounts, m) })
	}
	add(v1alpha1.Mount{ID: "b", Volume: "pv-b", Path: "/data/b"})
	<-begun
	add(v1alpha1.Mount{ID: "c", Volume: "pv-a", Path: "/data/c"})
	w.eventually(func(c *assertT) { require.Equal(c, sb.Generation, w.get(sb).Status.ObservedGeneration) })
	close(proceed)
	w.phases(sb, "a Mounted", "b Mounted", "c Mounted")
}

// asked is a mount as a request asks for it now.
func asked(m v1alpha1.Mount) v1alpha1.Mount {
	m.RequestedAt = &metav1.MicroTime{Time: time.Now()}
	return m
}

func TestAMountThatARequestAsksForIsItsBusinessAtFirst(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool")
	w.eventually(func(c *assertT) { require.Equal(c, "running", w.get(sb).Status.State) })
	began := time.Now()
	sb = edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = []v1alpha1.Mount{asked(dataA())} }) // and its gateway dies
	w.phases(sb, "a Pending")
	require.Zero(t, w.fitter.count("publish pv-a /data/a"))
	w.phases(sb, "a Mounted")
	require.GreaterOrEqual(t, time.Since(began), w.times.Create-100*time.Millisecond)
	edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = nil })
	w.phases(sb)
	require.Empty(t, w.fitter.mounted(sb), "what is taken out by hand is unmounted, whoever has asked for it")
}

func TestAMountThatARequestHasPutInAnothersPlaceStays(t *testing.T) {
	for name, next := range map[string]v1alpha1.Mount{
		"the same volume in another way":    {ID: "a", Volume: "pv-a", Path: "/data/a", ReadOnly: true},
		"the same volume under another ID":  {ID: "b", Volume: "pv-a", Path: "/data/a"},
		"another part of the same volume":   {ID: "a", Volume: "pv-a", Path: "/data/a", SubPath: "x"},
		"another volume under the same ID":  {ID: "a", Volume: "pv-b", Path: "/data/a"},
		"another volume under its own name": {ID: "c", Volume: "pv-b", Path: "/data/a"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(w *world) { w.times.Create, w.times.Look = time.Hour, time.Hour })
			sb := w.handedOut("pool", dataA())
			w.phases(sb, "a Mounted")
			w.always(1100*time.Millisecond, func() bool { return true }, "the store keeps seconds")
			// The gateway has unmounted the one and mounted the other before anybody has looked.
			w.fitter.with(func(f *fitter) {
				f.agents[sb.UID].mounts = map[string]string{"h-" + next.Volume + " /data/a": ""}
			})
			sb = edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = []v1alpha1.Mount{asked(next)} })
			w.phases(sb, next.ID+" Mounted")
			require.Zero(t, w.fitter.count("unpublish h-pv-a /data/a"))
			require.Zero(t, w.fitter.count("publish "+next.Volume+" /data/a"))
		})
	}
}

func TestMountsAreEditedByHand(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	edit(w, sb, func(sb *v1alpha1.Sandbox) {
		sb.Spec.Mounts = append(sb.Spec.Mounts,
			v1alpha1.Mount{ID: "b", Volume: "pv-red", Path: "/data/b"},
			v1alpha1.Mount{ID: "blue", Volume: "pv-blue", Path: "/data/blue"},
			v1alpha1.Mount{ID: "none", Volume: "pv-none", Path: "/data/none"},
			v1alpha1.Mount{ID: "nested", Volume: "pv-b", Path: "/data/a/in"},
			v1alpha1.Mount{ID: "etc", Volume: "pv-b", Path: "/etc/x"},
			v1alpha1.Mount{ID: "own", Volume: "pv-b", Path: "/.sandgate/bin/x"},
			v1alpha1.Mount{ID: "odd", Volume: "pv-b", Path: "/data/../x"},
		)
	})
	w.phases(sb, "a Mounted", "b Mounted", "blue Failed", "none Failed", "nested Failed", "etc Failed", "own Failed", "odd Failed")
	require.Equal(t, "2/8", sb.Status.MountSummary)
	require.Equal(t, []string{"h-pv-a /data/a", "h-pv-red /data/b"}, w.fitter.mounted(sb))
	for i, m := range sb.Status.Mounts {
		if m.Phase == "Failed" {
			require.NotEmpty(t, m.Message, i)
			w.eventually(func(c *assertT) { require.Contains(c, w.events(sb.Name), m.Message) })
		}
	}
	require.Equal(t, sb.Status.Mounts[2].Message, sb.Status.Mounts[3].Message, "another team's volume is as if it were not there")

	edit(w, sb, func(sb *v1alpha1.Sandbox) {
		sb.Spec.Mounts = []v1alpha1.Mount{{ID: "a", Volume: "pv-a", Path: "/elsewhere"}}
	})
	w.phases(sb, "a Mounted")
	require.Equal(t, []string{"h-pv-a /elsewhere"}, w.fitter.mounted(sb), "moved, and the others taken away")
	edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = nil })
	w.phases(sb)
	require.Empty(t, w.fitter.mounted(sb))
	require.Empty(t, w.get(sb).Status.MountSummary)
}

func TestReadOnlyIsLiftedByHand(t *testing.T) {
	w := newWorld(t)
	a := dataA()
	a.ReadOnly = true
	sb := w.handedOut("pool", a)
	w.phases(sb, "a Mounted")
	require.True(t, sb.Status.Mounts[0].ReadOnly)
	edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts[0].ReadOnly = false })
	w.eventually(func(c *assertT) { require.False(c, w.get(sb).Status.Mounts[0].ReadOnly) })
	require.Equal(t, 1, w.fitter.count("unpublish h-pv-a /data/a"))
	require.Equal(t, 1, w.fitter.count("publish pv-a /data/a"))
}

func TestReadOnlyOfAVolumesOwnerStays(t *testing.T) {
	w := newWorld(t)
	w.volumes.mu.Lock()
	w.volumes.all["pv-a"].Annotations[v1alpha1.AnnotationReadOnly] = "true"
	w.volumes.mu.Unlock()
	sb := w.handedOut("pool", dataA())
	looks := func() int { return w.fitter.count("health h-pv-a /data/a") }
	reads := func() int {
		w.volumes.mu.Lock()
		defer w.volumes.mu.Unlock()
		return w.volumes.reads
	}
	w.eventually(func(c *assertT) {
		require.True(c, len(w.get(sb).Status.Mounts) == 1 && w.get(sb).Status.Mounts[0].ReadOnly)
	})
	n := looks()
	w.eventually(func(c *assertT) { require.Greater(c, looks(), n+1) })
	before := reads()
	n = looks()
	w.eventually(func(c *assertT) { require.Greater(c, looks(), n+3) })
	require.Equal(t, before, reads(), "it is looked up once")
	require.Zero(t, w.fitter.count("unpublish h-pv-a /data/a"))
}

func TestWhatIsAddedByHandKeepsToTheLimit(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	next := func(i int) v1alpha1.Mount {
		return v1alpha1.Mount{ID: fmt.Sprint("m", i), Volume: "pv-b", Path: fmt.Sprint("/m/", i)}
	}
	want := []string{"a Mounted"}
	for i := 1; i < 20; i++ {
		phase := " Mounted"
		if i >= mount.DefaultMaxMounts {
			phase = " Failed"
		}
		want = append(want, next(i).ID+phase)
	}
	edit(w, sb, func(sb *v1alpha1.Sandbox) {
		for i := 1; i < 20; i++ {
			sb.Spec.Mounts = append(sb.Spec.Mounts, next(i))
		}
		sb.Spec.Mounts[mount.DefaultMaxMounts].Volume = "pv-none"
	})
	w.phases(sb, want...)
	require.Contains(t, sb.Status.Mounts[19].Message, "at most 16 mounts; 20 are asked for")

	edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = append([]v1alpha1.Mount{next(20)}, sb.Spec.Mounts...) })
	w.phases(sb, append(want, "m20 Failed")...)
	require.Len(t, w.fitter.mounted(sb), mount.DefaultMaxMounts)
}

func TestASandboxOfNobodyMountsWhatEverybodyMay(t *testing.T) {
	w := newWorld(t)
	sb := w.sandbox("mine", func(sb *v1alpha1.Sandbox) {
		sb.Spec.Mounts = []v1alpha1.Mount{dataA(), {ID: "red", Volume: "pv-red", Path: "/red"}}
	})
	w.phases(sb, "a Mounted", "red Failed")
	without := w.sandbox("without", func(sb *v1alpha1.Sandbox) {
		sb.Spec.Runtimes, sb.Spec.Mounts = nil, []v1alpha1.Mount{dataA()}
	})
	w.phases(without, "a Failed")
	require.Contains(t, without.Status.Mounts[0].Message, `runtimes do not include "csi"`)
}

func TestADeadMountIsMadeAgain(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.fitter.with(func(f *fitter) {
		f.agents[sb.UID].mounts["h-pv-a /data/a"] = "the client that serves this volume has ended"
	})
	w.eventually(func(c *assertT) {
		require.Equal(c, 1, w.fitter.count("publish pv-a /data/a"))
		require.Contains(c, w.events(sb.Name), "MountRepaired")
	})
	w.phases(sb, "a Mounted")
	require.Empty(t, sb.Status.Mounts[0].Message)
}

func TestTheHealthOfAMountIsInItsStatusAndEachChangeAnEvent(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	for _, c := range []struct{ message, phase, verdict, event string }{
		{"slow: a read takes longer than 1s", "Mounted", "slow", "MountSlow"},
		{"hung: the storage does not answer", "Failed", "hung", "MountHung"},
		{"", "Mounted", "live", "MountRecovered"},
		{"dead: nobody serves this volume any more", "Failed", "dead", "MountFailed"},
		{"healed once, last at 2026-01-02T03:04:05Z: the client was killed", "Mounted", "live", "MountHealed"},
	} {
		w.fitter.with(func(f *fitter) {
			f.agents[sb.UID].mounts["h-pv-a /data/a"] = c.message
			f.publish = func(mount.Mount) error {
				if c.verdict == "dead" {
					return fmt.Errorf("%w: %s", mount.ErrUnavailable, c.message)
				}
				return errStays
			}
		})
		w.eventually(func(c2 *assertT) {
			m := w.get(sb).Status.Mounts[0]
			require.Contains(c2, m.Message, c.message)
			require.Equal(c2, []string{c.verdict, c.phase}, []string{m.Verdict, m.Phase})
			require.Contains(c2, w.events(sb.Name), c.event)
		})
	}
}

func TestAClientsContainerThatWasKilledForItsMemoryIsToldWithTheMount(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	ended := "healed once, last at 2026-01-02T03:04:05Z: the client has ended: " + clients.ErrContainerEnded.Error()
	w.fitter.with(func(f *fitter) { f.agents[sb.UID].mounts["h-pv-a /data/a"] = ended })
	w.eventually(func(c *assertT) { require.Equal(c, ended, w.get(sb).Status.Mounts[0].Message, "nobody has said more") })
	w.status(t.Context(), sb.Name, func(s *corev1.PodStatus) {
		s.InitContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
	})
	why := ended + ": container " + w.podOf(sb).Spec.InitContainers[0].Name + " used more memory than its limit"
	w.eventually(func(c *assertT) {
		require.Contains(c, w.get(sb).Status.Mounts[0].Message, why)
		require.Contains(c, w.events(sb.Name), why)
	})
	w.status(t.Context(), sb.Name, func(s *corev1.PodStatus) {
		now := metav1.Now()
		s.InitContainerStatuses[1].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", FinishedAt: now}
	})
	w.eventually(func(c *assertT) {
		require.Equal(c, ended, w.get(sb).Status.Mounts[0].Message, "another one that ended since was not killed for its memory")
	})
	other := "healed twice, last at 2026-01-02T03:05:05Z: the client was killed"
	w.fitter.with(func(f *fitter) { f.agents[sb.UID].mounts["h-pv-a /data/a"] = other })
	w.eventually(func(c *assertT) {
		require.Equal(c, other, w.get(sb).Status.Mounts[0].Message, "of that the kubelet knows nothing")
	})
}

func TestAMountThatWasHealedBeforeAnybodyHasLookedIsToldOfAllTheSame(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Settle = time.Second })
	sb := w.handedOut("pool", dataA())
	why := "healed once, last at 2026-01-02T03:04:05Z: no memory left"
	w.fitter.with(func(f *fitter) { f.agents[sb.UID].mounts["h-pv-a /data/a"] = why })
	w.phases(sb, "a Mounted")
	require.Equal(t, why, sb.Status.Mounts[0].Message)
	w.eventually(func(c *assertT) { require.Contains(c, w.events(sb.Name), "MountHealed volume pv-a at /data/a: "+why) })
}

func TestTheMountsOfASandboxThatHasEndedHaveEnded(t *testing.T) {
	for name, end := range map[string]func(w *world, sb *v1alpha1.Sandbox){
		"its pod is deleted": func(w *world, sb *v1alpha1.Sandbox) {
			require.NoError(w.t, w.client.Delete(w.t.Context(), w.podOf(sb)))
		},
		"its containers end": func(w *world, sb *v1alpha1.Sandbox) {
			w.status(w.t.Context(), sb.Name, func(s *corev1.PodStatus) { s.Phase = corev1.PodSucceeded })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			sb := w.handedOut("pool", dataA())
			w.phases(sb, "a Mounted")
			end(w, sb)
			w.phases(sb, "a Failed")
			m := sb.Status.Mounts[0]
			require.Equal(t, []string{"dead", "the sandbox has ended", "0/1"}, []string{m.Verdict, m.Message, sb.Status.MountSummary})
		})
	}
}

func TestAMountThatCannotBeMadeAgainSaysWhy(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.fitter.with(func(f *fitter) {
		delete(f.agents[sb.UID].mounts, "h-pv-a /data/a")
		f.publish = func(mount.Mount) error { return fmt.Errorf("%w: no such bucket", mount.ErrNotFound) }
	})
	w.phases(sb, "a Failed")
	require.Contains(t, sb.Status.Mounts[0].Message, "no such bucket")
	require.Equal(t, "0/1", sb.Status.MountSummary)
	w.fitter.with(func(f *fitter) {
		f.publish = func(mount.Mount) error { return errors.New("internal: /var/secret/path") }
	})
	w.eventually(func(c *assertT) { require.NotContains(c, w.get(sb).Status.Mounts[0].Message, "no such bucket") })
	require.NotContains(t, w.get(sb).Status.Mounts[0].Message, "/var/secret")
	w.fitter.with(func(f *fitter) { f.publish = nil })
	w.phases(sb, "a Mounted")
}

func TestAnAgentThatDoesNotAnswerTakesNoMountAway(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.fitter.with(func(f *fitter) { f.fail = fmt.Errorf("%w: 10.0.0.1:49990 refused", channel.ErrUnreachable) })
	w.eventually(func(c *assertT) {
		m := w.get(sb).Status.Mounts[0]
		require.Equal(c, "Mounted", m.Phase)
		require.Equal(c, channel.ErrUnreachable.Error(), m.Message)
	})
	w.fitter.with(func(f *fitter) { f.fail = nil })
	w.eventually(func(c *assertT) { require.Empty(c, w.get(sb).Status.Mounts[0].Message) })
	require.Zero(t, w.fitter.count("publish pv-a /data/a"))
}

func TestAContainerThatRestartedIsFittedOutAgain(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Look = time.Hour }) // only what happens makes it look
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	require.NotEmpty(t, sb.Status.StartedContainer)
	w.fitter.with(func(f *fitter) { delete(f.agents[sb.UID].mounts, "h-pv-a /data/a") })
	w.status(t.Context(), sb.Name, func(s *corev1.PodStatus) {
		s.ContainerStatuses[0].ContainerID, s.ContainerStatuses[0].RestartCount = "test://again", 1
	})
	w.eventually(func(c *assertT) {
		require.Equal(c, []string{"h-pv-a /data/a"}, w.fitter.mounted(sb))
		require.Equal(c, "test://again", w.get(sb).Status.StartedContainer)
		w.fitter.with(func(f *fitter) { require.Equal(c, 1, f.inits[sb.UID]) })
	})

	// While its daemon cannot be initialised it is not fitted out.
	w.fitter.with(func(f *fitter) { f.initErr = errors.New("connection refused") })
	w.status(t.Context(), sb.Name, func(s *corev1.PodStatus) { s.ContainerStatuses[0].ContainerID = "test://third" })
	w.always(500*time.Millisecond, func() bool { return w.get(sb).Status.StartedContainer == "test://again" })
	w.fitter.with(func(f *fitter) { f.initErr = nil })
	w.eventually(func(c *assertT) { require.Equal(c, "test://third", w.get(sb).Status.StartedContainer) })
}

func TestAnAgentThatRestartedIsLookedAtAtOnce(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Look = time.Hour })
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.fitter.with(func(f *fitter) { delete(f.agents[sb.UID].mounts, "h-pv-a /data/a") })
	w.status(t.Context(), sb.Name, func(s *corev1.PodStatus) {
		for i := range s.InitContainerStatuses {
			if s.InitContainerStatuses[i].Name == "agent" {
				s.InitContainerStatuses[i].ContainerID = "test://new-agent"
			}
		}
	})
	w.eventually(func(c *assertT) { require.Equal(c, []string{"h-pv-a /data/a"}, w.fitter.mounted(sb)) })
	require.Zero(t, w.fitter.inits[sb.UID], "the daemon has not restarted")
}

func TestAnotherControllerLooksAfterWhatIsMounted(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.stop()
	w.fitter.with(func(f *fitter) { delete(f.agents[sb.UID].mounts, "h-pv-a /data/a") })
	w.control()
	w.eventually(func(c *assertT) { require.Equal(c, []string{"h-pv-a /data/a"}, w.fitter.mounted(sb)) })
}

func TestVolumesThatCannotBeLookedUpChangeNothing(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.volumes.mu.Lock()
	w.volumes.err = errors.New("API server away")
	w.volumes.mu.Unlock()
	w.always(time.Second, func() bool { return w.get(sb).Status.Mounts[0].Phase == "Mounted" })
	w.volumes.mu.Lock()
	w.volumes.err = nil
	delete(w.volumes.all, "pv-a")
	w.volumes.mu.Unlock()
	w.always(time.Second, func() bool { return w.get(sb).Status.Mounts[0].Phase == "Mounted" }, "a volume that is mounted outlives its object")
}
