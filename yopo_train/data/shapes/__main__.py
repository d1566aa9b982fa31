from yopo_train.data.shapes.build import main

main()
