package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// pods are the sandboxes' pods by their addresses, as the API server tells.
type pods struct {
	make func(sandboxID, sandboxUID string) (*pod, error)

	mu      sync.Mutex
	byIP    map[string]*pod
	changed chan struct{} // closed when there is another one
}

// pod is what stands for one.
type pod struct {
	uid   string // the pod's own
	init  http.Handler
	agent func(ctx context.Context) (*funnel, error)

	life context.Context // ends with the pod
	end  context.CancelFunc
	once sync.Once
	into *funnel
	err  error
}

func newPods(of func(id, uid string) (*pod, error)) *pods {
	return &pods{make: of, byIP: map[string]*pod{}, changed: make(chan struct{})}
}

// listener takes the connections of the pod's agent, which starts with the first.
func (p *pod) listener() (*funnel, error) {
	p.once.Do(func() { p.into, p.err = p.agent(p.life) })
	return p.into, p.err
}

// late is how far the watch may be behind those who were told of a pod's address.
const late = 2 * time.Second

// at is the pod at a connection's own address, nil when there is none.
func (p *pods) at(ctx context.Context, addr net.Addr) *pod {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, late)
	defer cancel()
	for {
		p.mu.Lock()
		have, changed := p.byIP[tcp.IP.String()], p.changed
		p.mu.Unlock()
		if have != nil {
			return have
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// watch follows the pods until ctx ends.
func (p *pods) watch(ctx context.Context, cfg *rest.Config) error {
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(clients, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = v1alpha1.LabelSandboxID
	}))
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { p.put(o) },
		UpdateFunc: func(_, o any) { p.put(o) },
		DeleteFunc: func(o any) { p.drop(o) },
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

func (p *pods) put(o any) {
	of, ok := o.(*corev1.Pod)
	if !ok || of.Status.PodIP == "" || of.DeletionTimestamp != nil {
		return
	}
	owner := metav1.GetControllerOf(of)
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.byIP[of.Status.PodIP]
	if owner == nil || have != nil && have.uid == string(of.UID) {
		return
	}
	made, err := p.make(of.Labels[v1alpha1.LabelSandboxID], string(owner.UID))
	if err != nil {
		return // no sandbox of the product
	}
	if have != nil {
		have.end()
	}
	made.uid = string(of.UID)
	made.life, made.end = context.WithCancel(context.Background()) // of its own: it ends with its pod
	p.byIP[of.Status.PodIP] = made
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pods) drop(o any) {
	if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	of, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if have := p.byIP[of.Status.PodIP]; have != nil && have.uid == string(of.UID) {
		have.end()
		delete(p.byIP, of.Status.PodIP)
	}
}
