from yopo_train.data.benchmark_samples.build import main

main()
