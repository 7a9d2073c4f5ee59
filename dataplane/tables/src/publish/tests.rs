#[cfg(loom)]
mod loom_model {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use crate::publish::{Publisher, Reader};

    /// Knows the thread that may free it.
    struct Table {
        number: u64,
        owner: thread::ThreadId,
        freed: Arc<AtomicUsize>,
    }

    impl Drop for Table {
        fn drop(&mut self) {
            assert_eq!(thread::current().id(), self.owner, "freed on a worker");
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn table(number: u64, freed: &Arc<AtomicUsize>) -> Table {
        Table { number, owner: thread::current().id(), freed: Arc::clone(freed) }
    }

    fn worker(mut reader: Reader<Table>, batches: usize) -> Reader<Table> {
        let mut last = 0;
        for _ in 0..batches {
            let number = reader.refresh().number;
            assert!(number >= last, "never back to an older edition");
            last = number;
            assert_eq!(reader.version(), number);
        }
        reader
    }

    #[test]
    fn loom_frees_on_the_control_thread_only() {
        loom::model(|| {
            let freed = Arc::new(AtomicUsize::new(0));
            let (mut publisher, mut readers) = Publisher::new(table(1, &freed), 1);
            let reader = readers.pop().unwrap();
            let worker = thread::spawn(move || worker(reader, 2));
            publisher.publish(table(2, &freed));
            publisher.publish(table(3, &freed));
            assert!(publisher.retired() <= 2);
            let mut reader = worker.join().unwrap();
            assert_eq!(reader.refresh().number, 3, "a reader that refreshes gets the newest");
            assert!(publisher.adopted(3));
            publisher.reclaim();
            assert_eq!((publisher.retired(), freed.load(Ordering::Relaxed)), (0, 2));
        });
    }

    #[test]
    fn loom_a_stalled_reader_does_not_hold_up_another() {
        let mut model = loom::model::Builder::new();
        // All interleavings of three threads are too many; with so few switches forced, they are not.
        model.preemption_bound = Some(3);
        model.check(|| {
            let freed = Arc::new(AtomicUsize::new(0));
            let (mut publisher, mut readers) = Publisher::new(table(1, &freed), 3);
            let stalled = readers.pop().unwrap();
            let workers: Vec<_> =
                readers.into_iter().map(|reader| thread::spawn(move || worker(reader, 1))).collect();
            publisher.publish(table(2, &freed));
            publisher.publish(table(3, &freed));
            for worker in workers {
                let mut reader = worker.join().unwrap();
                assert_eq!(reader.refresh().number, 3);
            }
            publisher.reclaim();
            // The second edition never reached the stalled reader, and everybody else is past it.
            assert_eq!((publisher.retired(), freed.load(Ordering::Relaxed)), (1, 1));
            assert!(!publisher.adopted(2));
            assert_eq!(stalled.current().number, 1);
        });
    }

    #[test]
    fn loom_adopted_means_that_the_old_is_not_used_and_can_go() {
        loom::model(|| {
            let freed = Arc::new(AtomicUsize::new(0));
            let (mut publisher, mut readers) = Publisher::new(table(1, &freed), 1);
            let reader = readers.pop().unwrap();
            // Something outside of the tables that the first edition's users rely on.
            let resource = Arc::new(loom::cell::UnsafeCell::new(0));
            let used = Arc::clone(&resource);
            let worker = thread::spawn(move || {
                let mut reader = reader;
                for _ in 0..2 {
                    if reader.refresh().number == 1 {
                        used.with(|_| ());
                    }
                }
                reader
            });
            let version = publisher.publish(table(2, &freed));
            if publisher.adopted(version) {
                // Loom reports a race if a worker may still be at it.
                resource.with_mut(|_| ());
                publisher.reclaim();
                assert_eq!((publisher.retired(), freed.load(Ordering::Relaxed)), (0, 1));
            }
            drop(worker.join().unwrap());
        });
    }

    #[test]
    fn loom_a_worker_may_leave_at_any_time() {
        loom::model(|| {
            let freed = Arc::new(AtomicUsize::new(0));
            let (mut publisher, mut readers) = Publisher::new(table(1, &freed), 1);
            let reader = readers.pop().unwrap();
            let worker = thread::spawn(move || drop(worker(reader, 1)));
            publisher.publish(table(2, &freed));
            worker.join().unwrap();
            publisher.reclaim();
            assert!(publisher.adopted(2));
            assert_eq!((publisher.retired(), freed.load(Ordering::Relaxed)), (0, 1));
        });
    }
}

#[cfg(not(loom))]
mod threads {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use crate::publish::Publisher;

    /// Counts how many of it there are.
    struct Counted(u64, Arc<AtomicU64>);

    impl Counted {
        fn new(number: u64, alive: &Arc<AtomicU64>) -> Self {
            alive.fetch_add(1, Ordering::Relaxed);
            Self(number, Arc::clone(alive))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_stalled_reader_holds_two_editions_and_no_more() {
        let alive = Arc::new(AtomicU64::new(0));
        let (mut publisher, mut readers) = Publisher::new(Counted::new(1, &alive), 2);
        for number in 2..1000 {
            assert_eq!(publisher.publish(Counted::new(number, &alive)), number);
            assert_eq!(readers[0].refresh().0, number);
        }
        // Reader 0 has the newest, reader 1 the first.
        assert_eq!(readers[1].current().0, 1);
        assert!(publisher.adopted(1) && !publisher.adopted(2));
        assert!(publisher.retired() <= 2);
        assert!(alive.load(Ordering::Relaxed) <= 4);

        assert_eq!(readers[1].refresh().0, 999);
        assert!(publisher.adopted(999));
        publisher.reclaim();
        assert_eq!((publisher.retired(), alive.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn a_reader_that_is_gone_holds_nothing() {
        let alive = Arc::new(AtomicU64::new(0));
        let (mut publisher, mut readers) = Publisher::new(Counted::new(1, &alive), 2);
        publisher.publish(Counted::new(2, &alive));
        readers.pop();
        assert!(!publisher.adopted(2), "the other one has not looked");
        readers.pop();
        assert!(publisher.adopted(2));
        publisher.publish(Counted::new(3, &alive));
        publisher.reclaim();
        assert_eq!((publisher.retired(), alive.load(Ordering::Relaxed)), (0, 1));
        drop(publisher);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn workers_follow_a_busy_publisher() {
        const EDITIONS: u64 = 20_000;
        let alive = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (mut publisher, readers) = Publisher::new(Counted::new(1, &alive), 3);
        let workers: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || {
                    let mut last = 0;
                    while !stop.load(Ordering::Acquire) {
                        let number = reader.refresh().0;
                        assert!(number >= last);
                        last = number;
                    }
                    reader.refresh().0
                })
            })
            .collect();
        for number in 2..=EDITIONS {
            publisher.publish(Counted::new(number, &alive));
            assert!(publisher.retired() <= 6);
        }
        stop.store(true, Ordering::Release);
        for worker in workers {
            assert_eq!(worker.join().unwrap(), EDITIONS);
        }
        publisher.reclaim();
        assert_eq!(alive.load(Ordering::Relaxed), 1);
    }
}
